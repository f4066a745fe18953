"""An adapter that cannot be served is refused with one line, before or while the engine is made."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from adapted_models import TEXT
from safetensors.torch import load_file, save_file

import mossvl
from mossvl.adapters.files import AdapterFiles
from mossvl.checkpoints.default import CHECKPOINT as TINY
from mossvl.errors import CheckpointError, OptionError
from mossvl.options.engine import EngineConfig
from mossvl.quantization.formats import Whole

WEIGHTS = "adapter_model.safetensors"
FIRST_MAP = "model.language_model.layers.0.self_attn.q_proj"
FIRST = f"base_model.model.{FIRST_MAP}.lora_A.weight"
SECOND = "base_model.model.model.language_model.layers.99.self_attn.q_proj.lora_A.weight"


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


def with_pair(name):
    return with_tensors(
        lambda tensors: tensors.update({f"base_model.model.{name}.lora_{end}.weight": torch.ones(1) for end in "AB"})
    )


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
    "modules to save that are no list": (configured(modules_to_save=True), "modules_to_save: .*True"),
    "a scale by a word": (configured(use_rslora="false"), "use_rslora='false' must be true or false"),
    "no name of a base": (configured(base_model_name_or_path=3), "base_model_name_or_path=3 must be a text"),
    "a pattern of ranks that is none": (configured(rank_pattern={"(?i)Q": 4}), "cannot be used: global flags"),
    "no patterns": (configured(alpha_pattern=["q_proj"]), "cannot be used"),
    "no rank": (configured(r=None), "r=None must be"),
    "a broken pattern": (configured(target_modules="(q_proj"), "cannot be used"),
    "a base of a long name": (configured(base_model_name_or_path="a/" + "b" * 5000, r=5), r"\('a/bbb.{,200}damaged$"),
    "another rank": (configured(r=5), r"down_proj.lora_A.weight is \[4, \d+\], expected \[5, \d+\]"),
    "another base": (
        configured(base_model_name_or_path="some/OtherModel"),
        "adapter of 'some/OtherModel', but .* correct base_model",
    ),
    "more maps": (
        configured(target_modules=f"{TEXT}|model.visual.merger.linear_fc1"),
        r"missing: \S+\.visual\.merger\.linear_fc1\.",
    ),
    "half of a map": (with_tensors(lambda tensors: tensors.pop(FIRST)), f"missing: {FIRST}"),
    "nothing": (with_tensors(dict.clear), "has no tensors"),
    "another tensor": (with_tensors(lambda tensors: tensors.update(x=torch.ones(1))), "has 'x'; expected base_model"),
    "half of another map": (
        with_tensors(lambda tensors: tensors.update({SECOND: torch.ones(4, 9)})),
        "unexpected: base",
    ),
    "a norm": (with_pair("model.language_model.norm"), r"adapts model\.language_model\.norm; at run time, only linear"),
    "a convolution": (with_pair("model.visual.patch_embed.proj"), "adapts model.visual.patch_embed.proj; at run time"),
    "a name of two lines": (with_pair("model.visual.\nq"), r"has 'base_model.model.model.visual.\\nq.lora_A.weight'"),
    "whole numbers": (with_tensors(lambda tensors: tensors.update({FIRST: tensors[FIRST].int()})), "is of type int32"),
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
    with pytest.raises(CheckpointError, match=r"adapter 'own': .* does not fit .*tiny.*: missing: .*; and \d+ more"):
        mossvl.MossVL(TINY, lora=adapters.folders)


def test_what_a_rank_has_no_part_of_is_refused_by_every_rank(adapters, model):
    """All of them raise the same error, so that none waits for another."""
    folder = Path(adapters.add("own"))
    with_tensors(lambda tensors: tensors[FIRST][:, -1].fill_(torch.nan))(folder)
    part = copy.deepcopy(model)
    own = part.get_submodule(FIRST_MAP)
    whole = Whole(own.out_features, own.in_features)
    own.in_features //= 2
    files = AdapterFiles.read(folder)

    def whole_of(name, linear):
        return whole if name == FIRST_MAP else Whole.of(name, linear)

    files.check(part, "", whole_of)
    with pytest.raises(CheckpointError, match="is not finite"):
        list(files.low_ranks(part, torch.float32, whole_of))


def test_files_may_change_once_they_are_read(adapters, model):
    folder = Path(adapters.add("own"))
    read = dict(AdapterFiles.read(folder).low_ranks(model, torch.float32))
    expected = load_file(folder / WEIGHTS)[FIRST].clone()
    data = (folder / WEIGHTS).stat().st_size
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(bytes(data))
    assert torch.equal(read[FIRST_MAP].down, expected)


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


@pytest.mark.parametrize("path", ["/nowhere", "q" * 5000])
def test_a_folder_that_there_is_not_is_refused(path, make):
    with pytest.raises(CheckpointError, match=f"adapter 'own': {path} is not a folder; expected the folder of an ad"):
        make(lora={"own": path})


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


@pytest.mark.parametrize(
    ("lora", "rank"), [({}, 4), ({"rank_pattern": {"q_proj": 16}}, 16)], ids=["one rank", "a rank by a pattern"]
)
def test_adapters_without_memory_are_refused_and_the_largest_is_named(lora, rank, adapters, make, monkeypatch):
    def load(model, folders):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    adapters.add("small", r=2)
    adapters.add("large", **lora)
    monkeypatch.setattr("mossvl.adapters.loaded.Adapters.load", load)
    told = rf"memory of the device does not suffice for 2 adapters .* the highest rank, which is {rank}, of 'large'"
    with pytest.raises(OptionError, match=told):
        make(lora=adapters.folders)
