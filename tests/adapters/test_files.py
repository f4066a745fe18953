"""An adapter that cannot be served is refused with one line, before or while the engine is made."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from adapted_models import TEXT
from safetensors.torch import load_file, save_file

import mossvl
from mossvl.adapters.config import AdapterConfig
from mossvl.checkpoints.default import CHECKPOINT as TINY
from mossvl.errors import CheckpointError, OptionError
from mossvl.options.engine import EngineConfig

WEIGHTS = "adapter_model.safetensors"
FIRST = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


def configured(**keys):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def with_tensors(edit):
    def change(folder):
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return change


def cut_off(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


REFUSED = {
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "adapter_model.safetensors is missing"),
    "cut off": (cut_off, "is broken or cut off"),
    "another method": (configured(peft_type="VERA"), "peft_type is 'VERA'; expected 'LORA'"),
    "dora": (configured(use_dora=True), "use_dora=True is not supported"),
    "bias": (configured(bias="lora_only"), "bias='lora_only' is not supported"),
    "biases of maps": (configured(lora_bias=True), "lora_bias=True is not supported"),
    "modules to save": (configured(modules_to_save=["embed_tokens"]), "modules_to_save: .*embed_tokens"),
    "a key of later versions": (configured(use_something_new=3), "use_something_new=3 is not supported"),
    "another start": (configured(init_lora_weights="pissa"), "init_lora_weights='pissa' changes weights"),
    "no rank": (configured(r=None), "r=None must be"),
    "a broken pattern": (configured(target_modules="(q_proj"), "cannot be used"),
    "another rank": (configured(r=5), r"down_proj.lora_A.weight is \[4, \d+\], expected \[5, \d+\]"),
    "another base": (configured(base_model_name_or_path="some/OtherModel"), "adapter of some/OtherModel, but the"),
    "more maps": (configured(target_modules=f"{TEXT}|model.visual.merger.linear_fc1"), "lacks the adapters of model.v"),
    "half of a map": (with_tensors(lambda tensors: tensors.pop(FIRST)), "lacks base_model.*0.self_attn.q_proj.lora_A"),
    "nothing": (with_tensors(dict.clear), "has no tensors"),
    "another tensor": (with_tensors(lambda tensors: tensors.update(x=torch.ones(1))), "has x; expected base_model"),
    "not a number": (with_tensors(lambda tensors: tensors[FIRST].fill_(torch.nan)), "is not finite in float32; train"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused_with_its_reason(change, told, adapters, make, monkeypatch):
    folder = Path(adapters.add("own"))
    change(folder)
    if "OtherModel" in told:  # Names are compared where both are of repositories.
        monkeypatch.setattr(adapters.model, "name_or_path", "some/Model")
    with pytest.raises(CheckpointError, match=told) as refused:
        make(lora=adapters.folders)
    assert str(refused.value).startswith("adapter 'own': ") and "\n" not in str(refused.value)


def test_of_another_checkpoint_is_refused_before_weights_are_read(adapters, monkeypatch):
    adapters.add("own")
    monkeypatch.setattr("mossvl.loading.load", None)
    with pytest.raises(
        CheckpointError, match=r"adapter 'own': .* does not fit .*tiny.*: no linear map .*; and \d+ more"
    ):
        mossvl.MossVL(TINY, lora=adapters.folders)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_of_the_head_or_the_embeddings_is_refused(target, adapters, make):
    adapters.add("own", target_modules=[target])
    with pytest.raises(CheckpointError, match=f"{target}"):
        make(lora=adapters.folders)


def test_a_pickle_is_refused(adapters, make):
    folder = Path(adapters.add("own"))
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin, which may hold code"):
        make(lora=adapters.folders)


def test_a_run_of_training_names_its_adapter(adapters, make, tmp_path):
    shutil.move(adapters.add("own"), tmp_path / "run" / "adapter")
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json.*; it is .*run/adapter"):
        make(lora={"own": str(tmp_path / "run")})


def test_a_folder_that_there_is_not_is_refused(make):
    with pytest.raises(CheckpointError, match="adapter 'own': /nowhere is not a folder; expected the folder of an ad"):
        make(lora={"own": "/nowhere"})


def test_a_variant_of_the_base_is_none_other(adapters, make, monkeypatch):
    configured(base_model_name_or_path="some/Model")(Path(adapters.add("own")))
    monkeypatch.setattr(adapters.model, "name_or_path", "others/model-FP8")
    assert make(lora=adapters.folders).engine.adapters.names == ("own",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"a b": "x"}, "is no name"),
        ({"": "x"}, "is no name"),
        ({3: "x"}, "is no name"),
        ({"a": 3}, "needs a path"),
        ({"a": ""}, "needs a path"),
        (["a"], "NAME=PATH"),
        ("a=b", "NAME=PATH"),
        (["a=b", "a=c"], "two adapters are named 'a'"),
    ],
)
def test_names_and_paths_are_checked(given, told):
    with pytest.raises(OptionError, match=told):
        EngineConfig(lora=given)


def test_a_flag_names_its_adapter_before_the_first_equals_sign():
    assert EngineConfig(lora=["a=/x=y", "b=z"]).lora == {"a": "/x=y", "b": "z"}


NAMES = [
    "model.language_model.layers.1.self_attn.q_proj",
    "model.language_model.layers.1.mlp.up_proj",
    "model.visual.q",
]


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ["q_proj", "up"]},
        {"target_modules": "q_proj"},
        {"target_modules": r".*\.(q_proj|up_proj)", "exclude_modules": ["up_proj"]},
        {"target_modules": ["q", "up_proj"], "exclude_modules": r".*visual.*"},
    ],
)
def test_maps_are_named_as_in_peft(keys, tmp_path):
    from peft.tuners.tuners_utils import check_target_module_exists

    given = peft.LoraConfig(**keys)
    given.save_pretrained(tmp_path)
    config = AdapterConfig.read(tmp_path)
    found = [one for one in NAMES if config.adapts(one)]
    assert found == [
        one
        for one in NAMES
        if check_target_module_exists(given, one) is True
        or (isinstance(given.target_modules, str) and check_target_module_exists(given, one))
    ]
