"""Checkpoints of wrong shape, by accident or on purpose: one error of one type, before anything large is made."""

import json
import math
import os
import shutil
from contextlib import suppress

import pytest
import torch
from golden_cases import CHECKPOINT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import mossvl
from mossvl.checkpoints import strict as model_loading
from mossvl.checkpoints.strict import check_weights, read_configuration, read_generation_config
from mossvl.errors import CheckpointError
from mossvl.loading import check_together, read_processor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MODEL = mossvl.MossVLForConditionalGeneration
FILES = {path.name: json.loads(path.read_text()) for path in CHECKPOINT.glob("*.json")}


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("fuzzed") / "checkpoint")


@pytest.fixture
def nothing_large(monkeypatch):
    """No model is made, not even without its memory."""

    def make(*_):
        raise AssertionError("a model was made")

    monkeypatch.setattr(model_loading, "expected_tensors", make)
    monkeypatch.setattr("mossvl.loading.on_meta", make)


def edit(folder, path, value, file="config.json"):
    """Set the value at a path such as "text_config.hidden_size"."""
    whole = place = json.loads(json.dumps(FILES[file]))
    *above, last = path.split(".")
    for key in above:
        place = place[key]
    place[last] = value
    (folder / file).write_text(json.dumps(whole))


def paths_of(values, above=""):
    for name, value in values.items():
        yield above + name
        if isinstance(value, dict):
            yield from paths_of(value, f"{above}{name}.")


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([10**4, 10**9, 2**63, 10**30, math.nan, math.inf, -0.0, 1e308, "", "6", "silu"]),
    st.recursive(
        st.integers(-1, 9) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
)
OTHERS = ["num_labels", "id2label", "dtype", "torch_dtype", "rope_parameters", "to_dict", "per_layer_config"]
FIELDS = {file: sorted(set(paths_of(values)) - {"added_tokens_decoder"}) for file, values in FILES.items()}
FIELDS["config.json"] += [part + name for part in ("", "text_config.", "vision_config.") for name in OTHERS]


@given(st.data())
def test_a_configuration_with_any_value_anywhere_loads_or_is_refused(fuzzed, data):
    edit(fuzzed, data.draw(st.sampled_from(FIELDS["config.json"])), data.draw(ODD))
    with suppress(CheckpointError):
        check_weights(MODEL, read_configuration(MODEL, fuzzed), fuzzed)


@settings(max_examples=40)
@given(st.data())
def test_a_processor_with_any_value_anywhere_loads_or_is_refused(fuzzed, data):
    files = ["preprocessor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"]
    file = data.draw(st.sampled_from(files))
    edit(fuzzed, data.draw(st.sampled_from(FIELDS[file])), data.draw(ODD), file)
    with suppress(CheckpointError):
        check_together(read_processor(fuzzed), mossvl.MossVLConfig(), fuzzed)
    (fuzzed / file).write_text(json.dumps(FILES[file]))


@given(st.sampled_from([*FIELDS["generation_config.json"], "max_length", "stop_strings", "do_sample"]), ODD)
def test_a_generation_config_with_any_value_anywhere_loads_or_is_refused(fuzzed, path, value):
    edit(fuzzed, path, value, "generation_config.json")
    with suppress(CheckpointError):
        read_generation_config(fuzzed)


@pytest.mark.parametrize("name", ["bos_token_id", "pad_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", ["x", {}, [None], 1.5, True, -1, 10**30, float("nan")])
def test_tokens_to_begin_and_end_with_are_numbers(name, value, folder):
    edit(folder, name, value, "generation_config.json")
    with pytest.raises(CheckpointError, match=r"generation_config.json cannot be used"):
        read_generation_config(folder)


@pytest.mark.parametrize("value", [[], 0, "", False])
def test_what_is_said_of_quantization_is_an_object(value, folder):
    for path in ("quantization_config", "text_config.quantization_config"):
        part = path.rpartition(".")[0]
        edit(folder, path, value)
        told = f"{part}: " * bool(part) + f"quantization_config {value!r} must be an object {{…}} or null"
        with pytest.raises(CheckpointError) as refused:
            mossvl.load(folder)
        assert str(refused.value) == f"the configuration of {folder} cannot be used: {told}"


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_byte_order_mark_is_refused(file, folder):
    """transformers reads none, and tells it as an OSError."""
    (folder / file).write_bytes(b"\xef\xbb\xbf" + (folder / file).read_bytes())
    with pytest.raises(CheckpointError, match=r"checkpoint"):
        mossvl.load(folder, device="cpu")


NO_OBJECTS = {
    "nothing": "", "cut": "{", "list": "[]", "number": "3", "text": '"x"', "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000, "no UTF-8": "\xff\xfe", "zeros": "\0" * 99,
}  # fmt: skip


@pytest.mark.parametrize("content", NO_OBJECTS.values(), ids=NO_OBJECTS)
@pytest.mark.parametrize("file", sorted({*FILES, INDEX} - {"chat_template.json"}))
def test_a_file_that_is_no_object_is_refused(file, content, folder):
    (folder / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"checkpoint"):
        mossvl.load(folder, device="cpu")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("text_config.hidden_size", 0, "hidden_size 0"),
        ("text_config.hidden_size", 10**12, "hidden_size 1000000000000"),
        ("text_config.hidden_size", True, "hidden_size"),
        ("text_config.vocab_size", -512, "vocab_size -512"),
        ("text_config.num_attention_heads", 2**23, "width_of_all_heads"),
        ("text_config.num_hidden_layers", 10**9, "num_hidden_layers 1000000000"),
        ("text_config.hidden_act", "bogus", "hidden_act 'bogus'"),
        ("vision_config.hidden_act", "bogus", "hidden_act 'bogus'"),
        ("text_config.rope_theta", math.nan, "rope_theta nan"),
        ("text_config.rope_theta", 0, "rope_theta 0"),
        ("text_config.rope_theta", -5.0, r"rope_theta -5\.0"),
        ("text_config.rope_theta", math.inf, "rope_theta inf"),
        ("text_config.rope_theta", "5e6", "rope_theta '5e6'"),
        ("text_config.rope_scaling.mrope_section", [16, 0], "must be three numbers"),
        ("text_config.rope_scaling.mrope_section", [26, -5, -5], "mrope_section -5"),
        ("text_config.rms_norm_eps", math.nan, "rms_norm_eps nan"),
        ("text_config.rms_norm_eps", 0.0, r"rms_norm_eps 0\.0"),
        ("text_config.head_dim", 33, "add up to head_dim / 2 = 16.5"),
        ("text_config.cross_attention_layers", [1, 1], "distinct"),
        ("text_config.cross_attention_layers", [1, 6], "cross_attention_layers 6"),
        ("vision_config.deepstack_visual_indexes", ["1"], "deepstack_visual_indexes"),
        ("vision_config.patch_size", 10**6, "pixels_of_a_patch"),
        ("text_config.dtype", "int8", "int8 is not a floating-point type"),
        ("text_config", [1], "text_config"),
        ("image_token_id", -1, "image_token_id -1"),
    ],
)
def test_sizes_that_no_model_has_are_refused_by_name(path, value, words, folder, nothing_large):
    edit(folder, path, value)
    with pytest.raises(CheckpointError, match=words):
        mossvl.load(folder, device="cpu")
    with pytest.raises(CheckpointError, match=words):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=words):
        AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("path", ["text_config.num_hidden_layers", "vision_config.depth"])
def test_more_layers_than_tensors_are_refused_before_one_is_made(path, folder, nothing_large):
    edit(folder, path, 10**4)
    for load in (lambda: mossvl.load(folder, device="cpu"), lambda: AutoModelForCausalLM.from_pretrained(folder)):
        with pytest.raises(CheckpointError, match=r"most of 100\d\d layers"):
            load()


def test_shapes_are_compared_before_a_model_has_memory(folder, monkeypatch):
    monkeypatch.setattr("mossvl.loading.with_memory", lambda *_: pytest.fail("a model was made"))
    edit(folder, "text_config.vocab_size", 2**24)
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \[512, 64\], expected \[16777216, 64\]"):
        mossvl.load(folder, device="cpu")


def test_labels_of_classifiers_are_not_made(folder):
    edit(folder, "num_labels", 10**9)
    assert AutoConfig.from_pretrained(folder).num_labels == 2


@pytest.mark.parametrize(
    ("file", "path", "value", "words"),
    [
        ("preprocessor_config.json", "size", [], "size"),
        ("preprocessor_config.json", "size.longest_edge", 5, "more than longest_edge"),
        ("preprocessor_config.json", "patch_size", 14, "patch_size is 14 for images"),
        ("preprocessor_config.json", "image_std", [0.5, 0, 0.5], "image_std"),
        ("video_preprocessor_config.json", "max_frames", -1, "max_frames"),
        ("video_preprocessor_config.json", "video_fps", math.nan, "video_fps"),
        ("tokenizer_config.json", "added_tokens_decoder", [], "processor of"),
    ],
)
def test_a_processor_that_makes_no_pictures_is_refused(file, path, value, words, folder):
    edit(folder, path, value, file)
    with pytest.raises(CheckpointError, match=words):
        mossvl.load(folder, device="cpu")


def test_patches_are_those_that_the_vision_tower_reads(folder):
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        edit(folder, "merge_size", 1, file)
    with pytest.raises(CheckpointError, match=r"patches of \(16, 1, 1\), its vision tower reads \(16, 1, 2\)"):
        mossvl.load(folder, device="cpu")


def test_the_models_vocabulary_holds_all_tokens(processor):
    config = mossvl.MossVLConfig(text_config={"vocab_size": 480}, image_token_id=486)
    with pytest.raises(CheckpointError, match=r"tokens up to 491, but vocab_size is 480"):
        check_together(processor, config, CHECKPOINT)


# --- weights ---------------------------------------------------------------------------------------------------------


def shard(folder, places=None):
    """Cut the weights into two shards; gives the index that was written."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    halves = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {name: file for file, names in halves.items() for name in names} | (places or {})
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return index


def refused(folder, words):
    with pytest.raises(CheckpointError, match=words):
        mossvl.load(folder, device="cpu")
    with pytest.raises(CheckpointError, match=words):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../c.safetensors", "/etc/c.safetensors", "inner/c.safetensors", "..", "", "c.bin"])
def test_an_index_names_files_beside_it_only(name, folder):
    shard(folder, {"lm_head.weight": name})
    for place in (folder.parent, folder / "inner"):
        place.mkdir(exist_ok=True)
        shutil.copy(folder / "a.safetensors", place / "c.safetensors")
    refused(folder, "expected names of safetensors files beside it")


@pytest.mark.parametrize("map_", [[], {}, 3, None, {"lm_head.weight": 5}, {"lm_head.weight": ["a.safetensors"]}])
def test_an_index_is_a_map_of_names(map_, folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": map_}))
    refused(folder, "not a list of shards")


def test_a_shard_may_not_be_a_link_to_elsewhere_nor_a_folder(folder):
    shard(folder)
    (folder / "b.safetensors").rename(folder.parent / "b.safetensors")
    (folder / "b.safetensors").symlink_to("../b.safetensors")
    refused(folder, "is a link to .* outside of its folder")
    (folder / "b.safetensors").unlink()
    (folder / "b.safetensors").mkdir()
    refused(folder, "b.safetensors is missing")


def test_links_of_the_hubs_cache_are_followed(folder):
    repository = folder.parent / "models--someone--moss-vl"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    shard(folder)
    for file in folder.iterdir():
        file.rename(blobs / f"hash-of-{file.name}")
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / f"hash-of-{file.name}", snapshot))
    folder.rmdir()
    folder.symlink_to(snapshot)
    for given_as in (snapshot, folder):
        model, _ = mossvl.load(given_as, device="cpu")
        assert torch.equal(model.lm_head.weight.bfloat16(), load_file(CHECKPOINT / WEIGHTS)["lm_head.weight"])


def test_a_tensor_lies_in_one_shard(folder):
    tensors = load_file(folder / WEIGHTS)
    shard(folder)
    other = load_file(folder / "b.safetensors") | {name: tensors[name] for name in load_file(folder / "a.safetensors")}
    save_file(other, folder / "b.safetensors")
    refused(folder, r"is in a\.safetensors and in b\.safetensors")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.uint16, torch.complex64])
def test_weights_are_floating_point_numbers(dtype, folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"]).to(dtype)
    save_file(tensors, folder / WEIGHTS)
    refused(folder, "lm_head.weight is of type")
