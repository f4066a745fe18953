"""Weights go from files into a model's own memory, all of them or with an error that says why not."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from golden_cases import CHECKPOINT
from safetensors.torch import load_file, save_file

import mossvl
from mossvl.checkpoints import weights
from mossvl.checkpoints.default import CHECKPOINT as TINY
from mossvl.checkpoints.weights import load_weights
from mossvl.errors import CheckpointError
from mossvl.loading import folder_of, random_model


def empty(dtype=torch.float32, **changes):
    """A model of the golden size whose parameters are NaN."""
    config = mossvl.MossVLConfig.from_pretrained(CHECKPOINT, **changes)
    with torch.device("meta"):
        model = mossvl.MossVLForConditionalGeneration(config)
    model = model.to(dtype).to_empty(device="cpu")
    model.tie_weights()
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    return model


def check(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


@pytest.fixture(scope="module")
def tensors():
    return load_file(CHECKPOINT / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("part_bytes", [100, 10_000, weights.PART_BYTES])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_every_parameter_is_the_files(dtype, part_bytes, tensors, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", part_bytes)
    model = empty(dtype)
    load_weights(model, CHECKPOINT)
    check(model, tensors)


def test_shards_are_read_like_one_file(folder, tensors, model):
    model.save_pretrained(folder, max_shard_size="400KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 2
    again = empty()
    load_weights(again, folder)
    check(again, tensors)


@pytest.mark.parametrize("part_bytes", [100, 3000])
def test_types_may_differ_within_a_file(folder, tensors, part_bytes, monkeypatch):
    """Tensors then begin at any byte."""
    monkeypatch.setattr(weights, "PART_BYTES", part_bytes)
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64)
    mixed = {name: tensor.to(kinds[i % len(kinds)]) for i, (name, tensor) in enumerate(tensors.items())}
    save_file(mixed, folder / "model.safetensors")
    model = empty()
    load_weights(model, folder)
    check(model, mixed)


def test_loading_gives_what_transformers_gives(folder):
    ours = mossvl.load(folder, device="cpu", dtype="bfloat16")[0]
    theirs = mossvl.MossVLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    check(ours, theirs.state_dict())
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert ours.config.to_dict() == theirs.config.to_dict()
    assert ours.name_or_path == theirs.name_or_path
    assert not ours.training
    assert ours.lm_head.weight.requires_grad == theirs.lm_head.weight.requires_grad


def test_a_missing_generation_config_is_made_of_the_configuration(folder):
    (folder / "generation_config.json").unlink()
    ours = mossvl.load(folder, device="cpu")[0]
    theirs = mossvl.MossVLForConditionalGeneration.from_pretrained(folder)
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()


@pytest.mark.parametrize(
    ("given", "revision"), [("someone/moss-vl", None), ("someone/moss-vl@v1.0", "v1.0"), ("a/b@refs/pr/1", "refs/pr/1")]
)
def test_names_on_the_hub_are_downloaded_at_their_revision(folder, tensors, monkeypatch, given, revision):
    asked = []

    def downloaded(name, revision, files):
        asked.append((name, revision))
        return folder

    monkeypatch.setattr("mossvl.loading.download", downloaded)
    model, _ = mossvl.load(given, device="cpu", progress=True)
    assert asked == [(given.partition("@")[0], revision)]
    check(model, tensors)


@pytest.mark.parametrize("given", ["missing", "./a/b", "/a/b", "a/b/c", "@v1", "/b@v1", "a/@v1"])
def test_what_is_neither_a_folder_nor_a_name_says_what_is_expected(given):
    with pytest.raises(CheckpointError, match=f"^{given} is not a folder; expected .*OWNER/NAME"):
        mossvl.load(given)


def test_a_folder_may_have_the_form_of_a_name_with_a_revision(folder, tensors, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "runs").mkdir()
    folder.rename(folder.parent / "runs" / "tiny@2")
    check(mossvl.load("runs/tiny@2", device="cpu")[0], tensors)


def test_tied_embeddings_are_read_once(folder, tensors):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    for stored in (tensors, {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}):
        save_file(stored, folder / "model.safetensors")
        model, _ = mossvl.load(folder, device="cpu")
        embeddings = model.model.language_model.embed_tokens.weight
        assert model.lm_head.weight is embeddings
        check(model, {**tensors, "lm_head.weight": tensors["model.language_model.embed_tokens.weight"]})


def test_parameters_may_be_views_of_shared_memory(tensors):
    """Side by side as an engine fuses them, and strided."""
    model = empty()
    attention = model.model.language_model.layers[0].self_attn
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    fused = torch.full((sum(len(part.weight) for part in parts), 64), torch.nan)
    for part, rows in zip(parts, fused.split([len(part.weight) for part in parts]), strict=True):
        part.weight.data = rows
    wide = torch.full((64, 200), torch.nan)
    attention.o_proj.weight.data = wide[:, 5:133]
    load_weights(model, CHECKPOINT)
    check(model, tensors)
    prefix = "model.language_model.layers.0.self_attn"
    assert torch.equal(fused, torch.cat([tensors[f"{prefix}.{name}_proj.weight"] for name in "qkv"]).float())
    assert wide[:, :5].isnan().all() and wide[:, 133:].isnan().all()


def test_progress_is_told_in_the_callers_thread(tensors, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", 10_000)
    calls = []
    load_weights(empty(), CHECKPOINT, lambda *numbers: calls.append((*numbers, threading.current_thread())))
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert [done for done, _, _ in calls] == sorted({done for done, _, _ in calls})
    assert calls[-1][0] == total
    assert {tuple(rest) for _, *rest in calls} == {(total, threading.current_thread())}


def test_an_error_of_progress_ends_loading(monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", 100)
    calls = []

    def stop(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_weights(empty(), CHECKPOINT, stop)
    assert len(calls) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.separator_token"), "missing: model.separator_token"),
        (lambda t: t.update({"model.extra": torch.zeros(3)}), "unexpected: model.extra"),
        (lambda t: t.update({"model.separator_token": torch.zeros(3)}), r"misshapen: model.separator_token is \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, words, folder, tensors):
    changed = dict(tensors)
    change(changed)
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_weights(empty(), folder)
    with pytest.raises(CheckpointError, match=words):
        mossvl.load(folder, device="cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["direct", "cast"])
@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "cut off"),
        (lambda file: file.unlink(), "cannot be read"),
    ],
    ids=["cut off", "gone"],
)
def test_a_file_that_changes_after_its_header_was_read(happens, words, dtype, folder, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", 10_000)
    parts = weights._parts

    def then(*args):
        yield from list(parts(*args))
        happens(folder / "model.safetensors")

    monkeypatch.setattr(weights, "_parts", then)
    with pytest.raises(CheckpointError, match=words):
        load_weights(empty(dtype), folder)


def test_a_missing_shard_is_refused(folder, model):
    model.save_pretrained(folder, max_shard_size="400KB")
    next(folder.glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002.* is missing"):
        load_weights(empty(), folder)


def test_a_model_without_memory_is_refused():
    with torch.device("meta"):
        model = mossvl.MossVLForConditionalGeneration(mossvl.MossVLConfig.from_pretrained(CHECKPOINT))
    with pytest.raises(ValueError, match="to_empty"):
        load_weights(model, CHECKPOINT)


MEASURE = """
import resource, sys, torch, mossvl
from mossvl.checkpoints.weights import load_weights
folder, dtype = sys.argv[1], getattr(torch, sys.argv[2])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with torch.device("meta"):
    model = mossvl.MossVLForConditionalGeneration(mossvl.MossVLConfig.from_pretrained(folder))
model = model.to(dtype).to_empty(device="cpu")
before = peak()
load_weights(model, folder)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A checkpoint of 400 MB in bfloat16, half of it embeddings."""
    folder = tmp_path_factory.mktemp("larger")
    config = json.loads((CHECKPOINT / "config.json").read_text())
    config["text_config"]["vocab_size"] = 1_600_000
    (folder / "config.json").write_text(json.dumps(config))
    model = random_model(mossvl.MossVLConfig.from_pretrained(folder), "cpu", "bfloat16")
    save_file(model.state_dict(), folder / "model.safetensors")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1.15), ("float32", 2 + 0.5)], ids=["direct", "cast"])
def test_there_is_no_second_copy(dtype, bound, larger):
    """In units of the file: float32 takes two, and the buffers a third of one."""
    file = larger / "model.safetensors"
    command = [sys.executable, "-c", MEASURE, str(larger), dtype]
    grown = int(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)
    assert grown < bound * file.stat().st_size, f"{grown / file.stat().st_size:.2f} times the file"


def test_random_models_are_repeatable_and_see(processor, golden):
    config = mossvl.MossVLConfig.from_pretrained(CHECKPOINT)
    first, second, other = (random_model(config, "cpu", "float32", seed) for seed in (0, 0, 1))
    check(first, second.state_dict())
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert all(torch.isfinite(parameter).all() for parameter in first.parameters())
    assert {p.item() for name, p in first.named_parameters() if name.endswith("gate")} == {0.5}
    image = str(Path(golden) / "media" / "clip_10fps_6s.mp4")
    query = {"prompt": "Look", "videos": [image], "generate_kwargs": {"max_new_tokens": 3}}
    assert "error" not in first.offline_batch_generate(processor, [query])["results"][0]


def test_mossvl_tiny_is_known_by_its_name_unless_a_folder_here_has_it(folder, tensors, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert folder_of("mossvl-tiny") == TINY
    folder.rename(tmp_path / "mossvl-tiny")
    check(mossvl.load("mossvl-tiny", device="cpu")[0], tensors)
