"""The kinds of checkpoints that are published, as their configurations say what they are."""

import json
import shutil

import pytest
import torch
from golden_cases import CHECKPOINT
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

import mossvl
from mossvl.checkpoints.weights import load_weights
from mossvl.errors import CheckpointError
from mossvl.loading import read_processor

MODEL = mossvl.MossVLForConditionalGeneration
FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": FP8_WEIGHTS}},
    "ignore": ["lm_head", "re:.*visual.*"],
}
BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}
BYTES = {**NF4, "load_in_4bit": False, "load_in_8bit": True}
UNREADABLE = [
    ({"quantization_config": BLOCKS}, r"quantization_config: FP8, fp8\)"),
    ({"quantization_config": BYTES}, r"quantization_config: NF4, bitsandbytes\), which is not supported: .* 8 bits"),
    ({"quantization_config": {**BYTES, "quant_method": None}}, r"quantization_config: NF4\), .* 8 bits"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantization_config: gptq\)"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, r"quantization_config: awq\)"),
    (
        {"compression_config": {**COMPRESSED, "format": "marlin-24"}},
        r"compression_config: compressed-tensors\), .*marlin-24",
    ),
    ({"text_config.quantization_config": BYTES}, r"quantization_config: NF4, bitsandbytes\)"),
]
"""Of the formats that can be read, tests/quantization has more."""
KNOWN = r"Known are compressed-tensors \(FP8, INT4\) and bitsandbytes \(NF4\); or load the checkpoint"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CHECKPOINT, tmp_path / "MOSS-VL")


def edit(folder, changes):
    """Write changes into a config.json; None removes a key."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *above, last = path.split(".")
        part = config[above[0]] if above else config
        part[last] = value
        if value is None:
            del part[last]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("architecture", ["MossVLForConditionalGeneration", "MossVLRealtimeForConditionalGeneration"])
@pytest.mark.parametrize("multiple", [1, 8, None])
def test_models_of_both_names_load_and_compute_the_same(architecture, multiple, folder, model, reference):
    code = "modeling_moss_vl_realtime.MossVLRealtimeForConditionalGeneration"
    edit(
        folder, {"architectures": [architecture], "vision_seq_pad_multiple": multiple, "auto_map": {"AutoModel": code}}
    )
    (folder / "modeling_moss_vl_realtime.py").write_text("raise SystemExit('the code of a checkpoint ran')")
    loaded, processor = mossvl.load(folder, "cpu", "float32")
    text, medium = "<|image|>What is it?", [str(CHECKPOINT.parent / "media" / "shapes.png")]
    inputs = processor(text=text, images=medium, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(loaded(**inputs).logits, expected)
        for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
            again = auto.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
            assert type(again) is MODEL and torch.equal(again(**inputs).logits, expected)
    assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)) is mossvl.MossVLProcessor


@pytest.mark.parametrize("loader", ["load", "MossVL", "own class", "AutoModelForCausalLM", "state_dict", "weights"])
@pytest.mark.parametrize(("changes", "words"), UNREADABLE)
def test_quantized_weights_that_cannot_be_read_are_refused_by_what_they_are(loader, changes, words, folder, model):
    edit(folder, changes)
    load = {
        "load": lambda: mossvl.load(folder, "cpu"),
        "MossVL": lambda: mossvl.MossVL(folder, device="cpu"),
        "own class": lambda: MODEL.from_pretrained(folder),
        "AutoModelForCausalLM": lambda: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True),
        "state_dict": lambda: MODEL.from_pretrained(folder, state_dict={}),
        "weights": lambda: load_weights(model, folder),
    }[loader]
    with pytest.raises(CheckpointError, match=rf"MOSS-VL is quantized \({words}.*{KNOWN}"):
        load()


@pytest.mark.parametrize("loader", ["load", "own class", "weights"])
@pytest.mark.parametrize("given", [COMPRESSED, NF4])
def test_plain_weights_that_are_said_to_be_quantized_are_refused(loader, given, folder, model):
    edit(folder, {"quantization_config": given})
    load = {
        "load": lambda: mossvl.load(folder, "cpu"),
        "own class": lambda: MODEL.from_pretrained(folder),
        "weights": lambda: load_weights(model, folder),
    }[loader]
    words = r"weight_scale|quantized \(NF4, bitsandbytes\), but none is|, and the model is not; mossvl.load makes one"
    with pytest.raises(CheckpointError, match=words):
        load()


def test_a_file_beside_the_configuration_may_say_so(folder):
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    for load in (mossvl.load, MODEL.from_pretrained):
        with pytest.raises(CheckpointError, match=r"is quantized \(hf_quant_config.json: FP8\)"):
            load(folder)


def test_something_else_in_its_place_is_told_as_it_is(folder):
    edit(folder, {"quantization_config": ["int3"]})
    with pytest.raises(CheckpointError, match=r'is quantized \(quantization_config: \["int3"\]\)'):
        mossvl.load(folder, "cpu")


@pytest.mark.parametrize(("changes", "words"), UNREADABLE)
def test_quantized_weights_of_the_hub_that_cannot_be_read_are_refused_too(changes, words, folder, tmp_path):
    edit(folder, changes)
    place = tmp_path / "hub" / "models--OpenMOSS--MOSS-VL"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    for load in (MODEL.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match=rf"OpenMOSS/MOSS-VL is quantized \({words}"):
            load("OpenMOSS/MOSS-VL", cache_dir=tmp_path / "hub", local_files_only=True)
    edit(place / "snapshots" / ("0" * 40), dict.fromkeys(changes))
    loaded = MODEL.from_pretrained("OpenMOSS/MOSS-VL", cache_dir=tmp_path / "hub", local_files_only=True)
    assert torch.equal(loaded.lm_head.weight, MODEL.from_pretrained(CHECKPOINT).lm_head.weight)


@pytest.mark.parametrize("nothing", [{}, False])
def test_weights_of_which_nothing_is_said_are_not_quantized(nothing, folder):
    edit(folder, {"compression_config": nothing})
    assert mossvl.load(folder, "cpu")[0].dtype == torch.float32


@pytest.mark.parametrize("load", [mossvl.load, MODEL.from_pretrained, AutoModelForCausalLM.from_pretrained])
@pytest.mark.parametrize(
    "asked",
    [
        {"load_in_4bit": False, "load_in_8bit": False},
        {**NF4, "load_in_4bit": False},
        {"load_in_4bit": False},
        {"quant_method": None},
    ],
)
@pytest.mark.parametrize("part", ["", "text_config."])
def test_what_says_that_weights_are_not_quantized_is_believed(part, asked, load, folder):
    edit(folder, {f"{part}quantization_config": asked})
    loaded = load(folder)
    loaded = loaded[0] if isinstance(loaded, tuple) else loaded
    assert not getattr(loaded.config, "quantization_config", None)


def test_configuration_and_processor_of_quantized_weights_are_read(folder):
    edit(folder, {"quantization_config": COMPRESSED})
    assert type(AutoConfig.from_pretrained(folder)) is mossvl.MossVLConfig
    assert type(AutoProcessor.from_pretrained(folder)) is type(read_processor(folder)) is mossvl.MossVLProcessor
