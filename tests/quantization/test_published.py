"""Checkpoints that others have quantized load as they are, or not at all."""

import json
from importlib.util import find_spec

import pytest
import torch
from golden_cases import CHECKPOINT
from safetensors.torch import load_file

import mossvl
from mossvl import SamplingParams
from mossvl.checkpoints import weights
from mossvl.checkpoints.weights import load_weights
from mossvl.errors import CheckpointError, OptionError
from mossvl.quantization import compressed_tensors
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.nf4 import Nf4Linear
from mossvl.quantization.schemes import quantized_maps

COUNTS = {"fp8": 14, "int4": 14, "nf4": 12, "nf4-plain": 12}
FORMS = {"fp8": Fp8Linear, "int4": Int4Linear, "nf4": Nf4Linear, "nf4-plain": Nf4Linear}
LAYER = "model.language_model.layers.0"
Q = f"{LAYER}.self_attn.q_proj"


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def dense(model):
    """A plain model with the weights of a quantized one."""
    plain, _ = mossvl.load(CHECKPOINT, "cpu", model.dtype)
    for name, linear in quantized_maps(model):
        plain.get_submodule(name).weight.data.copy_(linear.dequantized(model.dtype))
    return plain


@pytest.mark.parametrize("part_bytes", [100, weights.PART_BYTES])
def test_quantized_weights_are_the_files(form, part_bytes, publish, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", part_bytes)
    published = publish(form)
    model, _ = mossvl.load(published.folder, "cpu", "bfloat16")
    maps = dict(quantized_maps(model))
    assert len(maps) == COUNTS[form] and {type(one) for one in maps.values()} == {FORMS[form]}
    assert {name.split(".")[3] for name in maps} == {"0", "2"}
    for name, expected in published.expected.items():
        assert torch.equal(maps[name].dequantized(torch.bfloat16), expected), name
    plain = load_file(CHECKPOINT / "model.safetensors")
    left = {name: one for name, one in model.state_dict().items() if name.rpartition(".")[0] not in maps}
    assert len(left) == len(plain) - len(maps)
    for name, one in left.items():
        assert torch.equal(one, plain[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_model_computes_as_one_with_its_dequantized_weights(form, dtype, publish, golden):
    model, processor = mossvl.load(publish(form).folder, "cpu", dtype)
    picture = str(golden / "media" / "shapes.png")
    inputs = processor(text="<|image|>What is it?", images=[picture], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, dense(model)(**inputs).logits)


def test_the_engine_answers_as_with_the_dequantized_weights(form, publish, golden):
    query = {"prompt": "What is there?", "images": [str(golden / "media" / "shapes.png")]}
    params = SamplingParams(max_new_tokens=8, ignore_eos=True)
    with mossvl.MossVL(publish(form).folder, device="cpu") as llm:
        answer = llm.submit(query, params).result(60)
        plain, processor = dense(llm.model), llm.processor
    with mossvl.MossVL(plain, processor) as llm:
        assert llm.submit(query, params).result(60).token_ids == answer.token_ids


def test_scales_keep_the_dtype_that_they_have(publish):
    published = publish("fp8")
    tensors = published.tensors()
    scale = tensors[f"{Q}.weight_scale"] = tensors[f"{Q}.weight_scale"].float() * 1.001
    published.write(tensors)
    model, _ = mossvl.load(published.folder, "cpu", "float32")
    linear = model.get_submodule(Q)
    assert torch.equal(linear.dequantized(torch.float32), tensors[f"{Q}.weight"].float() * scale)


def test_published_names_of_groups_stand_for_their_contents(publish):
    published = publish("fp8")
    published.edit(config_groups={"FP8_DYNAMIC": ["Linear"]})
    assert len(dict(quantized_maps(mossvl.load(published.folder, "cpu")[0]))) == 14


@pytest.mark.parametrize("place", ["compression_config", "text_config"])
def test_the_configuration_may_be_in_its_other_places(place, publish):
    published = publish("fp8")
    given = published.config["quantization_config"]
    above = {} if place == "compression_config" else published.config["text_config"]
    changes = given if place == "compression_config" else {**above, "quantization_config": given}
    published.configure(quantization_config=None, **{place: changes})
    assert len(dict(quantized_maps(mossvl.load(published.folder, "cpu")[0]))) == 14


def test_a_quantized_cache_that_generation_names_is_ignored(form, publish, golden):
    published = publish(form)
    path = published.folder / "generation_config.json"
    given = {"cache_implementation": "quantized", "cache_config": {"backend": "quanto", "nbits": 4}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **given}))
    model, processor = mossvl.load(published.folder, "cpu")
    inputs = processor(text="What is it?", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3
    assert model.generation_config.cache_implementation is None


BROKEN = [
    ("fp8", f"{Q}.weight_scale", None, rf"missing: {Q}.weight_scale \[128, 1\]"),
    ("fp8", f"{Q}.weight_scale", torch.ones(128), rf"misshapen: {Q}.weight_scale is \[128\], expected \[128, 1\]"),
    ("fp8", f"{Q}.weight_scale", torch.ones(128, 1, dtype=torch.int8), "weight_scale is of type int8, expected float"),
    ("fp8", f"{Q}.weight", torch.zeros(128, 64).bfloat16(), f"{Q}.weight is of type bfloat16, expected float8_e4m3fn"),
    ("fp8", f"{Q}.input_scale", torch.ones(1), f"unexpected: {Q}.input_scale"),
    ("int4", f"{Q}.weight_packed", torch.zeros(128, 16, dtype=torch.int32), r"is \[128, 16\], expected \[128, 8\]"),
    ("int4", f"{Q}.weight_packed", torch.zeros(128, 8).bfloat16(), "is of type bfloat16, expected int32"),
    ("int4", f"{Q}.weight_scale", torch.zeros(128, 2).bfloat16(), r"weight_scale is \[128, 2\], expected \[128, 1\]"),
    ("int4", f"{Q}.weight_shape", torch.tensor([128, 63]), rf"{Q}: weight_shape is \[128, 63\], expected \[128, 64\]"),
    ("int4", f"{Q}.weight_g_idx", torch.zeros(64, dtype=torch.int32), f"unexpected: {Q}.weight_g_idx"),
    ("nf4", f"{Q}.weight.absmax", None, f"missing: {Q}.weight.absmax"),
    ("nf4", f"{Q}.weight.nested_absmax", None, f"missing: {Q}.weight.nested_absmax"),
    ("nf4", f"{Q}.weight.quant_map", torch.zeros(16), rf"{Q}: quant_map is \[0.0, .*expected the 16 values of NF4"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", None, "missing: .*quant_state.bitsandbytes__nf4"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", {"blocksize": 128}, f"{Q}: quant_state has blocksize 128"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", {"quant_type": "fp4"}, "has quant_type 'fp4', expected 'nf4'"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", {"shape": [64, 128]}, r"has shape \[64, 128\]"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", {"nested_offset": None}, "nested_offset None, expected a num"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", {"nested_offset": 10**400}, "nested_offset 10+, expected a"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", {"nested_offset": True}, "nested_offset True, expected a num"),
    ("nf4", f"{Q}.weight.quant_state.bitsandbytes__nf4", "not JSON", f"{Q}: quant_state is not JSON"),
    ("nf4-plain", f"{Q}.weight.absmax", torch.zeros(127), r"misshapen: .*absmax is \[127\], expected \[128\]"),
]


@pytest.mark.parametrize(("form", "name", "value", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_tensor_that_does_not_fit_is_named(form, name, value, words, publish):
    published = publish(form)
    tensors = published.tensors()
    if isinstance(value, dict):
        value = json.dumps({**json.loads(bytes(tensors[name].tolist())), **value})
    if isinstance(value, str):
        value = torch.tensor(list(value.encode()), dtype=torch.uint8)
    tensors[name] = value
    published.write({name: one for name, one in tensors.items() if one is not None})
    with pytest.raises(CheckpointError, match=words):
        mossvl.load(published.folder, "cpu")


def group(**weights):
    own = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True}
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {**own, **weights}}}}


UNREADABLE = [
    ("int4", group(symmetric=False), "asymmetric"),
    ("int4", group(actorder="group"), "actorder is 'group'"),
    ("int4", group(group_size=16), "group_size is 16; supported are 128, 64, 32"),
    ("int4", group(group_size=64.0), "group_size is 64.0; supported are 128, 64, 32"),
    ("int4", group(num_bits=3), r"weights are of 3 bits \(int\), strategy group of 64"),
    ("int4", group(strategy="channel"), r"weights are of 4 bits \(int\), strategy channel"),
    ("int4", group(type="float"), r"4 bits \(float\)"),
    ("int4", {"format": "marlin-24"}, "format of INT4 weights is 'marlin-24', not pack-quantized"),
    ("int4", {"config_groups": {"W4A8": ["Linear"]}}, "the group 'W4A8' is none of FP8_DYNAMIC, W4A16"),
    ("int4", {"config_groups": None}, "config_groups is None, not an object"),
    ("int4", {"config_groups": {"a": {**group()["config_groups"]["group_0"], "targets": "Linear"}}}, "not a list of"),
    ("fp8", {"ignore": ["re:(["]}, r"ignore has 're:\(\[', which is no pattern"),
    ("fp8", {"ignore": ["re:a{99999999999}"]}, r"ignore has 're:a\{9+\}', which is no pattern"),
    ("fp8", {"ignore": ["re:" + "(" * 5000 + ")" * 5000]}, r"ignore has 're:\(+, which is no pattern"),
    ("fp8", {"ignore": "lm_head"}, "ignore is 'lm_head', not a list of names"),
    ("fp8", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is set"),
    ("fp8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config has the format 'sparse-24"),
    ("fp8", {"quantization_status": "frozen"}, "quantization_status is 'frozen'"),
    ("nf4", {"load_in_8bit": True, "load_in_4bit": False}, "8 bits"),
    ("nf4", {"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type is 'fp4'; supported is 'nf4'"),
    ("nf4", {"bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage is 'bfloat16'"),
    (
        "fp8",
        {"quant_method": "gptq", "bits": 4},
        r"quantization_config: FP8, gptq\).* Known are compressed-tensors \(FP8",
    ),
    ("int4", {"quant_method": "awq"}, r"quantization_config: awq\), which is not supported\. Known are"),
]


@pytest.mark.parametrize(("form", "changes", "words"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_cannot_be_read_is_refused_by_what_it_is(form, changes, words, publish):
    published = publish(form)
    published.edit(**changes)
    with pytest.raises(CheckpointError, match=words) as raised:
        mossvl.load(published.folder, "cpu")
    assert "which is not supported" in str(raised.value)
    with pytest.raises(CheckpointError, match=words):
        load_weights(mossvl.load(CHECKPOINT, "cpu")[0], published.folder)


def test_a_pattern_that_tries_for_ever_is_refused(publish, monkeypatch):
    monkeypatch.setattr(compressed_tensors, "MATCH_SECONDS", 0.1)
    published = publish("fp8")
    published.edit(ignore=["re:(?:(?:(?:(a|e|.)+)+)+)+(?=!)"])
    with pytest.raises(CheckpointError, match=r"'re:.* takes more than 0.1 s to be matched with .*; simplify"):
        mossvl.load(published.folder, "cpu")


@pytest.mark.parametrize(("form", "package"), [("fp8", "compressed_tensors"), ("nf4", "bitsandbytes")])
def test_the_hugging_face_class_says_which_package_it_needs(form, package, publish):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(CheckpointError, match=rf"(?i){package.replace('_', '.')}.*mossvl.load needs no other package"):
        mossvl.MossVLForConditionalGeneration.from_pretrained(publish(form).folder)


def test_a_map_with_a_bias_is_refused(publish):
    published = publish("fp8")
    published.edit(ignore=["lm_head"])
    with pytest.raises(
        CheckpointError, match=r"model.visual.* has a bias; quantized weights are supported in maps with"
    ):
        mossvl.load(published.folder, "cpu")


def test_plain_weights_that_are_declared_quantized_are_refused(publish):
    published = publish("nf4")
    published.write(load_file(CHECKPOINT / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"says that weights are quantized \(NF4, bitsandbytes\), but none is"):
        mossvl.load(published.folder, "cpu")


def test_another_quantization_than_the_checkpoints_is_refused(form, publish):
    folder = publish(form).folder
    own = form.partition("-")[0]
    for other in {"fp8", "int4", "nf4"} - {own}:
        with pytest.raises(OptionError, match=rf"quantization='{other}', but the weights of .* are {own.upper()} alre"):
            mossvl.load(folder, "cpu", quantization=other)
    model, _ = mossvl.load(folder, "cpu", quantization=own)
    assert len(dict(quantized_maps(model))) == COUNTS[form]


def test_weights_of_one_form_do_not_go_into_a_model_of_another(publish):
    published = publish("fp8")
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(mossvl.load(published.folder, "cpu")[0], publish("int4").folder)
    with pytest.raises(CheckpointError, match=r"is quantized \(FP8, compressed-tensors\), and the model is not"):
        load_weights(mossvl.load(CHECKPOINT, "cpu")[0], published.folder)
