"""A run that is resumed is told which of its options are others than it began with."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from mossvl.options import MediaOptions
from mossvl.training.options import Part, TrainOptions

BEGUN = TrainOptions("checkpoint", Path("data.jsonl"), Path("out"))
DECIDING = {
    "checkpoint": ("other", "other (was checkpoint)"),
    "data": (Path("other.jsonl"), "other.jsonl (was data.jsonl)"),
    "media_dir": (Path("media"), "media (was None)"),
    "adapt": (False, "False (was True)"),
    "parts": ([Part.MERGER, Part.VISION], "merger vision (was merger cross-attention self-attention)"),
    "rank": (8, "8 (was 16)"),
    "alpha": (8, "8 (was 32)"),
    "dropout": (0.5, "0.5 (was 0.0)"),
    "epochs": (2.0, "2.0 (was 1.0)"),
    "max_steps": (5, "5 (was 0)"),
    "batch": (2, "2 (was 1)"),
    "accumulate": (3, "3 (was 1)"),
    "learning_rate": (0.5, "0.5 (was 0.0001)"),
    "warmup": (0.0, "0.0 (was 0.03)"),
    "weight_decay": (0.1, "0.1 (was 0.0)"),
    "max_length": (99, "99 (was None)"),
    "bad": ("stop", "stop (was skip)"),
    "state_loss": ("plain", "plain (was focal)"),
    "focal_gamma": (0.5, "0.5 (was 2.0)"),
    "leading_slot_dropout": (0.0, "0.0 (was 0.1)"),
    "turn_end_loss": (True, "True (was False)"),
    "gradient_checkpointing": (True, "True (was False)"),
    "vision_chunk": (4, "4 (was None)"),
    "dtype": ("float32", "float32 (was None)"),
    "quantization": ("nf4", "nf4 (was None)"),
    "seed": (1, "1 (was 0)"),
    "media": (MediaOptions(max_frames=2), f"{MediaOptions(max_frames=2)} (was {MediaOptions()})"),
}
"""By option: another value, and what is told of it."""
FREE = {
    "output": Path("elsewhere"), "eval_data": Path("held-out.jsonl"), "compile": True, "device": "cpu", "save_every": 1,
    "eval_every": 1, "log_every": 1, "keep": 9, "workers": 0, "resume": True,
}  # fmt: skip


@pytest.fixture
def noted(tmp_path):
    BEGUN.note(tmp_path / "new" / "out" / "options.json")
    return tmp_path / "new" / "out" / "options.json"


def resumed(**given):
    return TrainOptions(**{**{one.name: getattr(BEGUN, one.name) for one in fields(BEGUN)}, **given})


def test_every_option_is_free_or_decides_what_is_learned():
    assert {one.name for one in fields(TrainOptions)} == {*DECIDING, *FREE}


@pytest.mark.parametrize("name", DECIDING)
def test_an_option_that_decides_what_is_learned_is_told_with_what_it_was(name, noted):
    value, told = DECIDING[name]
    assert resumed(**{name: value}).differences(noted) == {name: told}


def test_other_options_may_change(noted):
    assert resumed(**FREE).differences(noted) == {}


def test_all_differences_are_told(noted):
    assert resumed(seed=1, batch=2, keep=9).differences(noted) == {"batch": "2 (was 1)", "seed": "1 (was 0)"}


def test_a_run_of_another_number_of_processes_is_another(noted, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert resumed().differences(noted) == {"processes": "4 (was 1)"}


def test_what_an_earlier_version_did_not_note_is_not_compared(noted):
    kept = json.loads(noted.read_text())
    del kept["warmup"]
    noted.write_text(json.dumps({**kept, "shuffle": "True"}))
    assert resumed(warmup=0.5, seed=1).differences(noted) == {"seed": "1 (was 0)"}
    assert resumed(seed=1).differences(noted.with_name("none.json")) == {}


def test_a_note_is_replaced_as_a_whole(noted):
    resumed(seed=1).note(noted)
    assert resumed(seed=1).differences(noted) == {} and [one.name for one in noted.parent.iterdir()] == [noted.name]
