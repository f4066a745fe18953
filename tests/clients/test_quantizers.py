"""The Hugging Face class with the packages that quantize for it, and their reading of what we write and of theirs."""

from pathlib import Path

import pytest
import torch
from golden_cases import CHECKPOINT
from published import FORMS
from transformers import BitsAndBytesConfig, TorchAoConfig

import mossvl
from mossvl.checkpoints.default import CHECKPOINT as TINY
from mossvl.quantization.schemes import quantized_maps
from mossvl.quantizing import quantize

MODEL = mossvl.MossVLForConditionalGeneration
PICTURE = str(Path(__file__).parents[2] / "examples" / "sign.png")
QUESTION = "What is written there?"
SKIPPED = ["model.visual", "lm_head"]


def bytes_of(**options):
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(llm_int8_skip_modules=SKIPPED, **options)


def nf4():
    return bytes_of(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def torchao():
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=SKIPPED)


CONFIGURED = {"nf4": nf4, "int8": lambda: bytes_of(load_in_8bit=True), "torchao": torchao}


def answers_alike(model, processor, length=6):
    """Whether the engine answers as `generate` does, and the offline methods too."""
    with mossvl.MossVL(model, processor) as llm:
        query = {"prompt": QUESTION, "images": [PICTURE]}
        answer = llm.submit(query, mossvl.SamplingParams(max_new_tokens=length)).result(120)
    inputs = processor(text=answer.input_text, images=[PICTURE], return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=length, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(ids, skip_special_tokens=True)
    offline = model.offline_image_generate(processor, QUESTION, PICTURE, max_new_tokens=length)
    return answer.token_ids and text == answer.text == offline


@pytest.mark.parametrize("kind", CONFIGURED)
def test_weights_are_quantized_by_transformers_and_the_engine_takes_them(kind):
    model = MODEL.from_pretrained(TINY, dtype=torch.float32, quantization_config=CONFIGURED[kind]())
    layer = model.model.language_model.layers[0]
    plain = MODEL.from_pretrained(TINY, dtype=torch.float32)
    assert type(layer.mlp.up_proj.weight) is not torch.nn.Parameter or "8bit" in type(layer.mlp.up_proj).__name__
    assert type(model.model.visual.blocks[0].attn.qkv) is torch.nn.Linear
    processor = mossvl.load(device="cpu")[1]
    inputs = processor(text="<|image|>What is it?", images=[PICTURE], return_tensors="pt")
    with torch.no_grad():
        one, other = (each(**inputs).logits.float() for each in (model, plain))
    assert 0 < (one - other).norm() < 0.25 * other.norm()
    assert answers_alike(model, processor)


@pytest.mark.parametrize("form", FORMS)
def test_published_weights_load_in_the_class_as_by_load(form, publish):
    pytest.importorskip("bitsandbytes" if form.startswith("nf4") else "compressed_tensors")
    folder = publish(form).folder
    model = MODEL.from_pretrained(folder, dtype=torch.bfloat16)
    ours, processor = mossvl.load(folder, "cpu", "bfloat16")
    inputs = processor(text="<|image|>What is it?", images=[PICTURE], return_tensors="pt")
    with torch.no_grad():
        one, other = (each(**inputs).logits.float() for each in (model, ours))
    # compressed-tensors quantizes the inputs of FP8 maps, too.
    assert (one - other).norm() <= {"fp8": 0.1, "int4": 0}.get(form, 0.02) * other.norm()
    assert answers_alike(model, processor)


@pytest.mark.parametrize("form", ["fp8", "int4"])
def test_compressed_tensors_reads_what_load_reads(form, publish):
    pytest.importorskip("compressed_tensors")
    folder = publish(form).folder
    model = MODEL.from_pretrained(folder, dtype=torch.bfloat16)
    ours, processor = mossvl.load(folder, "cpu", "bfloat16")
    with torch.no_grad():
        model(**processor(text="What?", return_tensors="pt"))  # Weights are decompressed by the first pass.
    for name, linear in quantized_maps(ours):
        assert torch.equal(model.get_submodule(name).weight, linear.dequantized(torch.bfloat16)), name


@pytest.mark.parametrize("kind", ["fp8", "int4"])
@pytest.mark.parametrize("checkpoint", [CHECKPOINT, TINY], ids=["head", "tied"])
def test_compressed_tensors_reads_what_we_write(kind, checkpoint, tmp_path):
    pytest.importorskip("compressed_tensors")
    quantize(checkpoint, tmp_path / "out", kind, "cpu")
    model = MODEL.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    ours, processor = mossvl.load(tmp_path / "out", "cpu", "bfloat16")
    with torch.no_grad():
        model(**processor(text=QUESTION, return_tensors="pt"))
    maps = dict(quantized_maps(ours))
    assert len(maps) == (39 if checkpoint == CHECKPOINT else 78)
    for name, linear in maps.items():
        assert torch.equal(model.get_submodule(name).weight, linear.dequantized(torch.bfloat16)), name
    left = {name: one for name, one in ours.state_dict().items() if name.rpartition(".")[0] not in maps}
    for name, one in left.items():
        assert torch.equal(model.state_dict()[name], one), name
