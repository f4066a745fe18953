"""Weights that are quantized while they are read: which, to what, and that no copy of them is kept."""

import json
import shutil

import pytest
import torch
from golden_cases import CHECKPOINT
from safetensors.torch import load_file, save_file

import mossvl
from mossvl import SamplingParams
from mossvl.checkpoints import weights
from mossvl.device.budget import budget_for
from mossvl.errors import OptionError
from mossvl.loading import random_model
from mossvl.options.engine import EngineConfig
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.int8 import Int8Linear
from mossvl.quantization.linear import Rows
from mossvl.quantization.nf4 import Nf4Linear
from mossvl.quantization.schemes import quantized_maps

KINDS = {"fp8": Fp8Linear, "int8": Int8Linear, "int4": Int4Linear, "nf4": Nf4Linear}
SELF = {*(f"self_attn.{one}_proj" for one in "qkvo"), *(f"mlp.{one}_proj" for one in ("gate", "up", "down"))}
CROSS = {*(f"cross_attn.{one}_proj" for one in "qo"), *(f"mlp.{one}_proj" for one in ("gate", "up", "down"))}
MAPS = {f"model.language_model.layers.{layer}.{one}" for layer in (0, 2, 3, 5) for one in SELF} | {
    f"model.language_model.layers.{layer}.{one}" for layer in (1, 4) for one in CROSS
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def plain():
    return load_file(CHECKPOINT / "model.safetensors")


def load(kind, folder=CHECKPOINT, dtype="bfloat16"):
    return mossvl.load(folder, "cpu", dtype, quantization=kind)


def test_maps_that_text_passes_are_quantized_and_no_others(kind):
    found = {name: type(one) for name, one in quantized_maps(load(kind)[0])}
    divided = {name for name in MAPS if kind != "nf4" or not name.endswith("down_proj")}  # of 160 in features
    assert found == {**dict.fromkeys(divided, KINDS[kind]), "lm_head": Int8Linear if kind == "int8" else Fp8Linear}


@pytest.mark.parametrize("part_bytes", [1000, weights.PART_BYTES])
def test_weights_are_those_of_the_file_quantized(kind, part_bytes, plain, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", part_bytes)
    model, _ = load(kind)
    maps = dict(quantized_maps(model))
    for name, linear in maps.items():
        same = copy_of(linear)
        same.put(0, plain[f"{name}.weight"])
        for own, tensor in same.state_dict().items():
            assert torch.equal(tensor.view(torch.uint8), linear.state_dict()[own].view(torch.uint8)), (name, own)
    for name, one in model.state_dict().items():
        if name.rpartition(".")[0] not in maps:
            assert torch.equal(one, plain[name]), name


def copy_of(linear):
    """A map of the same kind and size."""
    more = (linear.group,) if isinstance(linear, Int4Linear) else ()
    return type(linear)(linear.in_features, linear.out_features, *more)


def test_int4_has_the_largest_group_that_divides_all(tmp_path):
    assert {one.group for _, one in quantized_maps(load("int4")[0]) if isinstance(one, Int4Linear)} == {32}
    tiny, _ = mossvl.load(device="cpu", quantization="int4")  # of 192 and 384
    assert {one.group for _, one in quantized_maps(tiny)} == {64}


def test_a_head_that_is_tied_to_the_embeddings_keeps_their_weights():
    model, _ = mossvl.load(device="cpu", quantization="fp8")
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(dict(quantized_maps(model))) == 9 * 7 + 3 * 5


def test_no_more_than_a_piece_is_read_at_a_time(kind, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", 2000)
    sizes = []
    put = Rows.copy_

    def seen(rows, source, non_blocking=False):
        sizes.append(source.nbytes)
        put(rows, source, non_blocking)

    monkeypatch.setattr(Rows, "copy_", seen)
    load(kind)
    assert sizes and max(sizes) <= 2000


def test_weights_that_do_not_divide_keep_their_dtype_and_a_warning_says_so(caplog):
    load("nf4")
    told = "6 maps, such as model.language_model.layers.0.mlp.down_proj, do not divide into blocks of nf4"
    assert told in caplog.text


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_weights_of_other_dtypes_are_quantized_too(kind, stored, plain, tmp_path):
    shutil.copytree(CHECKPOINT, tmp_path / "other")
    save_file({name: one.to(stored) for name, one in plain.items()}, tmp_path / "other" / "model.safetensors")
    ours, theirs = (dict(quantized_maps(load(kind, folder)[0])) for folder in (CHECKPOINT, tmp_path / "other"))
    for name in ours:
        one, other = (maps[name].dequantized(torch.float32) for maps in (ours, theirs))
        assert (one - other).norm() < 0.02 * one.norm(), name


@pytest.mark.parametrize("images", [[], ["shapes.png"]], ids=["text", "image"])
def test_the_engine_answers_as_the_model(kind, images, golden):
    query = {"prompt": "What is there?", "images": [str(golden / "media" / one) for one in images]}
    model, processor = load(kind, dtype="float32")
    with mossvl.MossVL(CHECKPOINT, device="cpu", quantization=kind) as llm:
        assert llm.config.quantization == kind
        answer = llm.submit(query, SamplingParams(max_new_tokens=8, ignore_eos=True)).result(60)
    inputs = processor(text=answer.input_text, images=query["images"] or None, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert answer.token_ids == ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_offline_methods_take_a_quantized_model(kind, golden):
    model, processor = load(kind, dtype="float32")
    told = model.offline_image_generate(processor, "What is it?", golden / "media" / "shapes.png", max_new_tokens=4)
    assert isinstance(told, str)


def test_what_is_cached_is_forgotten_when_quantized_weights_change(kind, golden):
    model, processor = load(kind, dtype="float32")
    ask = {"prompt": "What is it?", "max_new_tokens": 8}
    before = model.offline_image_generate(processor, image=golden / "media" / "shapes.png", **ask)
    for _, linear in quantized_maps(model):
        linear.put(0, torch.ones(linear.out_features, linear.in_features))
    after = model.offline_image_generate(processor, image=golden / "media" / "shapes.png", **ask)
    again, _ = load(kind, dtype="float32")
    for _, linear in quantized_maps(again):
        linear.put(0, torch.ones(linear.out_features, linear.in_features))
    assert after == again.offline_image_generate(processor, image=golden / "media" / "shapes.png", **ask) != before


def test_steps_on_a_cpu_are_as_long_as_with_plain_weights(kind):
    budgets = [budget_for(EngineConfig(), model) for model in (load(kind)[0], mossvl.load(CHECKPOINT, "cpu")[0])]
    assert budgets[0] == budgets[1]


def test_what_is_no_quantization_is_refused():
    for make in (mossvl.load, random_model, mossvl.MossVL):
        with pytest.raises(OptionError, match="quantization='int5' must be 'fp8' or 'int8' or 'int4' or 'nf4'"):
            make(None, device="cpu", quantization="int5")


def test_random_weights_are_quantized(kind):
    config = mossvl.MossVLConfig.from_pretrained(CHECKPOINT)
    model = random_model(config, "cpu", "float32", quantization=kind)
    same = random_model(config, "cpu", "float32", quantization=kind)
    maps = dict(quantized_maps(model))
    assert len(maps) == (33 if kind == "nf4" else 39)
    deviations = {name: one.dequantized(torch.float32).std().item() for name, one in maps.items()}
    for name, deviation in deviations.items():
        expected = 0.02 / 96**0.5 if name.endswith(("o_proj", "down_proj")) else 0.02
        assert deviation == pytest.approx(expected, rel=0.05), name
    for name, one in model.state_dict().items():
        assert torch.equal(one.view(torch.uint8), same.state_dict()[name].view(torch.uint8))


def test_the_configuration_is_that_of_the_checkpoint(kind):
    model, _ = load(kind)
    assert json.loads(model.config.to_json_string()).get("quantization_config") is None
