"""Checkpoints are whole or not there, a loss that is no number ends a run, and another loss can be given."""

import copy
import math
import os
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from torch._dynamo.testing import CompileCounter
from transformers import TrainerControl, TrainerState, TrainingArguments

from mossvl.errors import TrainingError
from mossvl.model.loss import token_logprobs
from mossvl.model.vision_ops import PLAIN
from mossvl.options import MediaOptions
from mossvl.tiny.recipe import Recipe
from mossvl.tiny.train import train_stage
from mossvl.training import trainer
from mossvl.training.batches import Packer
from mossvl.training.examples import encode
from mossvl.training.trainer import (
    UNFINISHED,
    PackedTrainer,
    StopAfter,
    finish,
    keep_compiled,
    last_checkpoint,
    packed_arguments,
    written_whole,
)

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


def test_a_folder_gets_its_name_when_its_files_are_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "new" / "inner").mkdir(parents=True)
    for file in ("one", "inner/two"):
        (tmp_path / "new" / file).write_text(file)
    files = {path.stat().st_ino for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]}
    synced, descriptors = set(), set()

    def fsync(descriptor):
        assert not (tmp_path / "whole").exists()
        synced.add(os.fstat(descriptor).st_ino)
        descriptors.add(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    finish(tmp_path / "new", tmp_path / "whole")
    assert synced == files and len(descriptors) == 1, "each is closed before the next is opened"


def writing_fails(staging, error):
    with written_whole(staging, "the weights"):
        if staging.parent.exists():
            staging.mkdir()
            (staging / "half").touch()
        raise error


@pytest.mark.parametrize("error", [OSError("no room"), RuntimeError("no room"), SafetensorError("no room")])
@pytest.mark.parametrize("place", ["staging", "missing/staging"])
def test_what_cannot_be_written_is_told_and_leaves_nothing(error, place, tmp_path):
    told = r"^the weights cannot be written \(no room\); make room, .*--resume$"
    with pytest.raises(TrainingError, match=told):
        writing_fails(tmp_path / place, error)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are_and_leave_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        writing_fails(tmp_path / "staging", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_another_process_than_the_first_removes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with written_whole(tmp_path / "staging", "the weights"):
        (tmp_path / "staging").mkdir()
    assert (tmp_path / "staging").is_dir()


def test_time_is_counted_from_the_begin_of_the_training(tmp_path, monkeypatch):
    def stopped_after(seconds):
        now[0] = 100.0 + seconds
        control = TrainerControl()
        stop.on_step_end(arguments, TrainerState(), control)
        assert control.should_save == control.should_training_stop
        return control.should_save

    arguments, now = TrainingArguments(tmp_path, use_cpu=True, report_to=[]), [0.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    stop = StopAfter(10)
    now[0] = 100.0
    stop.on_train_begin(arguments, TrainerState(), TrainerControl())
    assert [stopped_after(seconds) for seconds in (0, 9, 10, 10.5, 99)] == [False, False, False, True, True]


def test_a_stage_that_is_through_makes_no_further_step(tmp_path):
    interrupted(tmp_path)
    assert train_stage(replace(RECIPE, stages=[replace(STAGE, steps=1)]), 0, tmp_path, None)
    assert [path.name for path in sorted((tmp_path / STAGE.name).glob("[cm]*"))] == ["checkpoint-1", "model"]


def test_a_loss_that_is_no_number_ends_the_run_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer.PackedTrainer, "training_step", lambda self, *args, **kwargs: torch.tensor(float("nan"))
    )
    with pytest.raises(TrainingError, match="no numbers at step 1"):
        train_stage(RECIPE, 0, tmp_path, 1e-9)
    assert last_checkpoint(tmp_path / STAGE.name) is None


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_weight_that_is_no_number_makes_no_checkpoint(value, tmp_path, monkeypatch):
    step = trainer.PackedTrainer.training_step

    def spoiling(self, model, *args, **kwargs):
        loss = step(self, model, *args, **kwargs)
        *_, learned = (one for one in model.parameters() if one.requires_grad)
        learned.data.view(-1)[0] = float(value)
        return loss

    monkeypatch.setattr(trainer.PackedTrainer, "training_step", spoiling)
    with pytest.raises(TrainingError, match="weights are no numbers at step 1"):
        train_stage(RECIPE, 0, tmp_path, 1e-9)
    assert last_checkpoint(tmp_path / STAGE.name) is None


# --- another loss ------------------------------------------------------------------------------------------------

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "It is I, and nobody else."}]
FORGOTTEN = 3
"""Tokens at the beginning of the answer that count for nothing."""


@pytest.fixture
def example(processor):
    return encode(processor, TURNS, MediaOptions())


def weighted(batch):
    """The mean over weighted tokens; weights (1, rows) are of labels, as these are of tokens."""
    weights = batch.pop("weights")[0, batch["logits_to_keep"] + 1]

    def loss(logits, labels, count):
        return -(token_logprobs(logits, labels) * weights).sum() / weights.sum()

    return loss


def learned(model, processor, example, folder, weights=None, **given):
    """(loss of an evaluation, weights) after two steps."""
    model = copy.deepcopy(model).train()
    packer = Packer(processor.image_token_id, processor.image_processor.merge_size)

    def batch(examples):
        packed = packer(examples)
        blank = packed["labels"].shape[1] - len(example.labels)  # a picture after the text, which nobody learns
        own = {} if weights is None else {"weights": torch.nn.functional.pad(weights, (0, blank))}
        return {**packed, **own}

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        label_names=["labels"],
        prediction_loss_only=True,
        **packed_arguments(False),
    )
    loop = PackedTrainer(
        model=model, args=arguments, data_collator=batch, train_dataset=[example] * 2, eval_dataset=[example], **given
    )
    loop.train()
    return loop.evaluate()["eval_loss"], model.state_dict()


def test_a_loss_of_weighted_tokens_learns_only_those_that_count(model, processor, example, tmp_path):
    first = int((example.labels != -100).nonzero()[0])
    weights = (example.labels != -100).float()[None]
    weights[0, first : first + FORGOTTEN] = 0
    shorter = replace(example, labels=example.labels.clone())
    shorter.labels[first : first + FORGOTTEN] = -100
    expected_loss, expected = learned(model, processor, shorter, tmp_path)
    plain_loss, _ = learned(model, processor, example, tmp_path)
    loss, found = learned(model, processor, example, tmp_path, weights, loss_of=weighted)
    assert loss == pytest.approx(expected_loss, abs=1e-5) and loss != pytest.approx(plain_loss, abs=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """The user's cache folder, and no folder of compiled code in the environment."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "restored afterwards")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_compiled_layers_are_kept_in_the_users_cache_folder(cache_folder):
    keep_compiled()
    folder = cache_folder / "mossvl" / "compiled"
    assert folder.is_dir() and os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)


def test_compiled_layers_are_kept_where_the_environment_says(cache_folder, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere" and not cache_folder.exists()


def test_without_a_cache_folder_pytorch_chooses_where_compiled_layers_are_kept(cache_folder):
    cache_folder.touch()  # a file, in which no folder can be made
    keep_compiled()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_block_is_not_compiled_for_each_number_of_runs(loaded):
    model, _ = loaded
    block, config = model.model.visual.blocks[0], model.config.vision_config
    counter = CompileCounter()
    compiled = torch.compile(block.forward, dynamic=True, backend=counter)
    compiled_frames = []
    for grids in (
        [(1, 4, 6)],
        [(1, 4, 6), (2, 4, 8)],
        [(3, 6, 4), (1, 2, 2), (1, 4, 8)],
        [(n, 2, 2 * n) for n in (2, 3, 4, 5)],
    ):
        frames = PLAIN.frames(model.model.visual.pos_embed.weight, grids, config)
        x = torch.rand(sum(math.prod(grid) for grid in grids), config.hidden_size)
        assert torch.allclose(compiled(x, frames, PLAIN), block(x, frames, PLAIN), atol=1e-5)
        compiled_frames.append(counter.frame_count)
    assert len(set(compiled_frames[1:])) == 1  # a single run may be compiled apart
