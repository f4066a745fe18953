"""A checkpoint with a damaged file is not gone on from: the one before it is, and a line says so."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mossvl.errors import CheckpointError, OptionError, TrainingError
from mossvl.training.checkpoints import FILES, damage, note_files, numbered, resumable
from mossvl.training.run import TrainOptions, train
from mossvl.training.trainer import last_checkpoint


def missing(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(path):
    """One byte in the middle, as a bad block would."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture(scope="module", params=["adapters", "weights"])
def options(request, tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "data.jsonl").write_text('{"prompt": "Why?", "response": "So."}\n{"prompt": "How?", "response": "Thus."}')
    return {
        "checkpoint": str(golden / "checkpoint"),
        "data": folder / "data.jsonl",
        "adapt": request.param == "adapters",
        "rank": 2,
        "device": "cpu",
        "learning_rate": 1e-2,
        "max_steps": 3,
        "save_every": 1,
        "workers": 0,
        "keep": 3,
    }


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """A run that is through, with its three checkpoints."""
    output = tmp_path_factory.mktemp("whole") / "out"
    train(TrainOptions(**options, output=output))
    return output


@pytest.fixture
def output(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def test_every_file_of_a_checkpoint_is_watched(output):
    checkpoint = output / "checkpoint-3"
    assert damage(checkpoint) is None
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", FILES} < names
    assert any(name.endswith(".safetensors") for name in names)
    for path in files:
        before = path.read_bytes()
        for spoil in (missing, empty, cut_off, changed):
            spoil(path)
            wrong = damage(checkpoint)
            assert wrong is not None and (path.name in wrong or path.name == FILES)
            if path.name != FILES and spoil is changed:
                assert wrong == f"{path.relative_to(checkpoint)} has other content"
            if path.name != FILES and spoil is empty:
                assert wrong == f"{path.relative_to(checkpoint)} has 0 bytes instead of {len(before)}"
            path.write_bytes(before)
    assert damage(checkpoint) is None


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "weights").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    noted = {"inner/weights": {"bytes": 3, "sha256": digest}}
    (tmp_path / "files.json").write_text(json.dumps(noted))
    assert damage(tmp_path) is None
    (tmp_path / "inner" / "weights").write_bytes(b"abd")
    assert damage(tmp_path) == "inner/weights has other content"


def test_files_are_noted_in_folders_of_any_depth(tmp_path):
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    for name in ("b", "inner/a", "inner/deep/c"):
        (tmp_path / name).write_text(name)
    note_files(tmp_path)
    note_files(tmp_path)
    noted = json.loads((tmp_path / "files.json").read_text())
    assert [(name, one["bytes"]) for name, one in noted.items()] == [("b", 1), ("inner/a", 7), ("inner/deep/c", 12)]
    assert damage(tmp_path) is None


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    note_files(tmp_path)
    read = Path.open

    def broken(path, *given, **named):
        if path.name == "b":
            raise OSError("bad block")
        return read(path, *given, **named)

    monkeypatch.setattr(Path, "open", broken)
    assert damage(tmp_path) == "b cannot be read"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "is missing"),
        ("", "cannot be read"),
        ('{"a": ', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"a": 3}', "cannot be read"),
        ("{}", "lists nothing"),
        ('{"a": {}}', "a has 1 bytes instead of None"),
    ],
)
def test_what_is_wrong_with_the_list_of_files_is_told(content, wrong, tmp_path):
    (tmp_path / "a").write_text("a")
    if content is not None:
        (tmp_path / FILES).write_text(content)
    assert damage(tmp_path) == (wrong if wrong.startswith("a ") else f"{FILES} {wrong}")


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(name, options, whole, output, caplog):
    cut_off(output / "checkpoint-3" / name)
    with caplog.at_level(logging.WARNING, logger="mossvl"):
        result = train(TrainOptions(**options, output=output, resume=True))
    assert result == output / ("adapter" if options["adapt"] else "model")
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("mossvl")]
    assert line.startswith(f"{output}/checkpoint-3 is damaged ({name} has ") and "\n" not in line
    assert line.endswith(f"; going on from {output}/checkpoint-2")
    assert damage(output / "checkpoint-3") is None  # it was made anew
    (after,), (before,) = (folder.glob("*.safetensors") for folder in (result, whole / result.name))
    after, before = load_file(after), load_file(before)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_several_damaged_checkpoints_are_passed_over(output, caplog):
    missing(output / "checkpoint-3" / "scheduler.pt")
    shutil.rmtree(output / "checkpoint-2")
    (output / "checkpoint-2").mkdir()
    with caplog.at_level(logging.WARNING, logger="mossvl"):
        assert resumable(output) == output / "checkpoint-1"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{output}/checkpoint-3 is damaged (scheduler.pt is missing); "
        f"{output}/checkpoint-2 is damaged ({FILES} is missing); going on from {output}/checkpoint-1"
    )


def test_without_a_whole_checkpoint_nothing_is_gone_on_from(options, output):
    for checkpoint in numbered(output):
        empty(checkpoint / "rng_state.pth")
    with pytest.raises(
        CheckpointError, match=r"checkpoint-1 is damaged \(rng_state.pth has 0 bytes .*none to go on from"
    ):
        train(TrainOptions(**options, output=output, resume=True))
    with pytest.raises(OptionError, match="has checkpoints of an earlier run"):
        train(TrainOptions(**options, output=output))


def test_a_damaged_checkpoint_of_a_later_step_is_not_kept_in_place_of_a_new_one(options, output):
    shutil.rmtree(output / "checkpoint-2")
    changed(output / "checkpoint-3" / "optimizer.pt")
    damaged = shutil.move(output / "checkpoint-3", output / "checkpoint-7")
    train(TrainOptions(**{**options, "keep": 1}, output=output, resume=True))
    assert resumable(output) == output / "checkpoint-3" and damaged.is_dir()


def test_as_many_checkpoints_are_kept_as_are_asked_for(options, tmp_path):
    train(TrainOptions(**{**options, "keep": 2}, output=tmp_path / "out"))
    assert [path.name for path in numbered(tmp_path / "out")] == ["checkpoint-2", "checkpoint-3"]


def test_a_result_that_cannot_be_written_leaves_the_checkpoints(options, whole, output):
    name = "adapter" if options["adapt"] else "model"
    shutil.rmtree(output / name)
    (output / name).write_text("somebody's own")
    with pytest.raises(TrainingError, match=rf"out/{name} cannot be written .*--resume"):
        train(TrainOptions(**options, output=output, resume=True))
    assert (output / name).read_text() == "somebody's own" and not (output / "unfinished").exists()
    assert resumable(output) == output / "checkpoint-3"


def test_the_same_options_give_the_same_result(options, whole, tmp_path):
    result = train(TrainOptions(**options, output=tmp_path / "out"))
    (again,), (before,) = (folder.glob("*.safetensors") for folder in (result, whole / result.name))
    again, before = load_file(again), load_file(before)
    assert before.keys() == again.keys() and all(torch.equal(before[name], again[name]) for name in before)


def test_the_last_checkpoint_is_the_one_of_the_highest_number(output):
    for step in (9, 10):
        shutil.copytree(output / "checkpoint-1", output / f"checkpoint-{step}")
    assert resumable(output) == last_checkpoint(output) == output / "checkpoint-10"
    changed(output / "checkpoint-10" / "trainer_state.json")
    assert resumable(output) == output / "checkpoint-9"


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "Expecting value: .*"), ('{"seed": "0', "Unterminated string .*"), ("[1]", "list instead of an object")],
)
def test_damaged_notes_of_a_run_are_told(content, reason, options, output):
    (output / "options.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"options.json, .* is damaged \({reason}\); remove it"):
        train(TrainOptions(**options, output=output, resume=True))


def test_what_decides_what_is_learned_is_noted_as_a_whole(options, output):
    noted = json.loads((output / "options.json").read_text())
    assert noted["max_steps"] == "3" and [path.name for path in output.glob("options.*")] == ["options.json"]
