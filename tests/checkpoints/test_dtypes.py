"""Types that a model computes in, and those that it is told from before anything is loaded."""

import json
import shutil

import pytest
import torch
from golden_cases import CHECKPOINT
from transformers import AutoModelForCausalLM

import mossvl
from mossvl.errors import CheckpointError, OptionError
from mossvl.loading import random_model, resolve_dtype

MODEL = mossvl.MossVLForConditionalGeneration
OTHERS = [
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu", "int8", "uint8", "int64", "bool"),
    *("complex64", "complex128", "qint8", "fp8", "nf4", "bf17", "", "nn", "tensor"),
    *(torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64),
]
NAMED = "is no type that models compute in; give 'bfloat16', 'float32' or 'float16'"


@pytest.fixture
def nothing_read(monkeypatch):
    """No weights are looked at."""

    def read(*_):
        raise AssertionError("weights were looked at")

    for place in ("strict", "weights"):
        monkeypatch.setattr(f"mossvl.checkpoints.{place}.read_headers", read)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("auto", [False, True])
def test_a_type_that_cannot_compute_is_refused_before_weights_are_read(dtype, auto, nothing_read):
    loaders = [
        lambda: mossvl.load(CHECKPOINT, "cpu", dtype),
        lambda: mossvl.load("/none", "cpu", dtype),
        lambda: mossvl.MossVL(CHECKPOINT, device="cpu", dtype=dtype),
        lambda: random_model(device="cpu", dtype=dtype),
    ]
    transformers = [
        lambda: MODEL.from_pretrained(CHECKPOINT, dtype=dtype),
        lambda: MODEL.from_pretrained(CHECKPOINT, torch_dtype=dtype),
        lambda: AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=dtype),
        lambda: AutoModelForCausalLM.from_pretrained(CHECKPOINT, torch_dtype=dtype),
        lambda: MODEL.from_pretrained(CHECKPOINT, dtype={"": torch.float32, "text_config": dtype}),
    ]
    for load in transformers if auto else loaders:
        with pytest.raises(OptionError, match=NAMED) as refused:
            load()
        assert repr(str(dtype).removeprefix("torch.")) in str(refused.value)


@pytest.mark.parametrize("value", [3, 1.5, ["float32"], object])
def test_what_is_no_type_at_all_is_refused(value):
    with pytest.raises(OptionError, match=NAMED):
        mossvl.load(CHECKPOINT, "cpu", value)


def test_a_configuration_with_such_a_type_needs_another_one(tmp_path, nothing_read, monkeypatch):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float8_e4m3fn"}))
    for dtype in ({}, {"dtype": "auto"}):
        with pytest.raises(OptionError, match=NAMED):
            MODEL.from_pretrained(folder, **dtype)
    monkeypatch.undo()
    assert MODEL.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32
    assert mossvl.load(folder, "cpu")[0].dtype == torch.float32


@pytest.mark.parametrize(
    "value", [5, 1.5, True, "", "nn", "foo", "Tensor", "auto", "int8", "bool", [], ["float32"], {}, {"": "float32"}]
)
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("part", ["", "text_config", "vision_config"])
def test_a_configuration_names_a_floating_point_type_or_none(part, name, value, tmp_path, nothing_read):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    place = f"{part}: {name}" if part else name
    told = f"torch.{value}" if value in ("int8", "bool") else repr(value)
    reason = f"{place} {told} is not a floating-point type; expected 'bfloat16', 'float32' or 'float16'"
    for load in (mossvl.load, mossvl.MossVLConfig.from_pretrained, MODEL.from_pretrained):
        with pytest.raises(CheckpointError) as refused:
            load(folder)
        assert str(refused.value) == f"the configuration of {folder} cannot be used: {reason}"
    with pytest.raises(CheckpointError) as refused:
        AutoModelForCausalLM.from_pretrained(folder)
    assert str(refused.value) == f"the configuration cannot be used: {reason}"
    with pytest.raises(ValueError, match="is not a floating-point type"):
        mossvl.MossVLConfig(**config)


def test_that_a_model_is_loaded_in_another_type_than_its_configuration_names_is_told(tmp_path, caplog):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    for dtype, told in (("float8_e4m3fn", ["names torch.float8_e4m3fn"]), ("bfloat16", [])):
        (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
        caplog.clear()
        mossvl.load(folder, "cpu")
        assert [one.message.removeprefix(f"{folder} ").split(",")[0] for one in caplog.records] == told


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16", "float64", "half", torch.float16])
def test_a_model_answers_in_the_type_that_it_is_loaded_in(dtype):
    model, processor = mossvl.load(CHECKPOINT, "cpu", dtype)
    assert model.dtype == (getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    query = {"prompt": "What?", "generate_kwargs": {"max_new_tokens": 2}}
    (result,) = model.offline_batch_generate(processor, [query])["results"]
    assert "error" not in result
    assert MODEL.from_pretrained(CHECKPOINT, dtype=dtype).dtype == model.dtype


def test_float64_is_for_the_cpu_alone():
    assert resolve_dtype("float64", torch.device("cpu")) == torch.float64
    with pytest.raises(OptionError, match=NAMED):
        resolve_dtype("float64", torch.device("cuda"))
    assert resolve_dtype("float16", torch.device("cuda")) == torch.float16


def test_without_a_type_it_follows_the_device():
    for given in (None, "auto"):
        assert resolve_dtype(given, torch.device("cpu")) == torch.float32
        assert resolve_dtype(given, torch.device("cuda")) == torch.bfloat16
