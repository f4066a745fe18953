"""Checkpoints are whole or not there, and a loss that is no number ends a run."""

from dataclasses import replace

import pytest
import torch

from mossvl.errors import TrainingError
from mossvl.tiny.recipe import Recipe
from mossvl.tiny.train import train_stage
from mossvl.training import trainer
from mossvl.training.trainer import UNFINISHED, finish, last_checkpoint

STAGE = replace(Recipe.read().stages[0], steps=3, warmup=1, decay=1)
RECIPE = replace(Recipe.read(), batch=1, stages=[STAGE])


def interrupted(folder):
    """A run that stops after its first step, with a checkpoint."""
    train_stage(RECIPE, 0, folder, 1e-9)
    return folder / STAGE.name


def test_a_checkpoint_gets_its_name_when_it_is_whole(tmp_path):
    out = interrupted(tmp_path)
    assert last_checkpoint(out) == out / "checkpoint-1"
    assert not (out / UNFINISHED).exists()


def test_a_full_disk_leaves_earlier_checkpoints_and_nothing_half_written(tmp_path, monkeypatch):
    out = interrupted(tmp_path)
    before = sorted(path.relative_to(out) for path in out.glob("checkpoint-*/*"))

    def full(self, output_dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.PackedTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(TrainingError, match=r"checkpoint of step 2 cannot be written.*No space left.*--resume"):
        train_stage(RECIPE, 0, tmp_path, 1e-9)
    assert sorted(path.relative_to(out) for path in out.glob("*/*") if path.parent.name != "runs") == before


def test_a_killed_run_leaves_nothing_that_is_taken_for_a_checkpoint(tmp_path):
    (tmp_path / UNFINISHED / "checkpoint-7").mkdir(parents=True)
    (tmp_path / "checkpoint-5").mkdir()
    assert last_checkpoint(tmp_path) is None


def test_a_folder_is_replaced_when_it_is_finished(tmp_path):
    for name, text in (("new", "new"), ("checkpoint-1", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    finish(tmp_path / "new", tmp_path / "checkpoint-1")
    assert (tmp_path / "checkpoint-1" / "file").read_text() == "new" and not (tmp_path / "new").exists()


def test_a_loss_that_is_no_number_ends_the_run_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer.PackedTrainer, "training_step", lambda self, *args, **kwargs: torch.tensor(float("nan"))
    )
    with pytest.raises(TrainingError, match="no numbers at step 1"):
        train_stage(RECIPE, 0, tmp_path, 1e-9)
    assert last_checkpoint(tmp_path / STAGE.name) is None
