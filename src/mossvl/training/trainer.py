"""The training loop: transformers' `Trainer` over packed batches, whose checkpoints are whole or not there."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from mossvl.errors import TrainingError
from mossvl.evaluation import Tally
from mossvl.model.layers import CrossAttentionLayer, SelfAttentionLayer
from mossvl.model.loss import Loss, next_token_loss
from mossvl.model.vision import VisionBlock
from mossvl.processes import first_process
from mossvl.processing.pixels import PatchLayout
from mossvl.training.accuracy import exact_answers
from mossvl.training.batches import Batch
from mossvl.training.checkpoints import note_files, numbered
from mossvl.training.synthetic import Drawn
from mossvl.training.workers import quiet

UNFINISHED = "unfinished"
"""The folder in which a checkpoint is written before it gets its name."""
TOGETHER = 20
"""Steps between which several processes agree on whether it is time to stop."""

logger = logging.getLogger(__name__)


LossOf = Callable[[Batch], Loss]
"""Makes the loss of a batch that is on its device, and takes out of the batch what only the loss needs."""


def next_tokens(batch: Batch) -> Loss:
    """Every label counts the same."""
    return next_token_loss


class PackedTrainer(Trainer):
    """`Trainer` whose batches are packed; pictures that are not yet drawn are drawn on the device.

    From then on, this process computes attention without cuDNN.

    Args:
        loss_of: what is learned from a batch.

    Attributes:
        skipped: records that could not be used so far, "FILE: line 3: why"; each is logged once.
    """

    def __init__(self, *args: Any, loss_of: LossOf = next_tokens, **kwargs: Any) -> None:
        arguments: TrainingArguments = kwargs["args"]
        # One process drives one GPU: `Trainer` would cut packed rows into one piece for each that it sees.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(*args, **kwargs)
        # cuDNN's attention plans for 10 ms at each new number of pictures, which is every step's; others do not plan.
        torch.backends.cuda.enable_cudnn_sdp(False)
        sharding = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if sharding is not None and isinstance(sharding.mixed_precision_policy, MixedPrecisionPolicy):
            # Angles of rotation and the loss stay in float32; autocast lowers what a product needs lower.
            sharding.mixed_precision_policy = replace(
                sharding.mixed_precision_policy, cast_forward_inputs=False, output_dtype=None
            )
        self._loss_of = loss_of
        self.skipped: set[str] = set()
        self._right: list[bool] = []
        self._output_dir = self.args.output_dir
        if first_process():  # With no step left, rank 0 may be writing before another rank comes here.
            shutil.rmtree(Path(self.args.output_dir, UNFINISHED), ignore_errors=True)

    def train(self, resume_from_checkpoint: str | None = None, *args: Any, **kwargs: Any) -> TrainOutput | None:
        """As `Trainer` does, but a run that is through makes no further step: its last checkpoint is loaded."""
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint, TRAINER_STATE_NAME)))
            if state.global_step >= (self.args.max_steps if self.args.max_steps > 0 else state.max_steps):
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return None
        # Autocast lowers what adapters get; they would raise it to the precision of their weights before.
        with disable_input_dtype_casting(self.model, active=self.args.bf16):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        return quiet(super().get_train_dataloader())

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        inputs = dict(inputs)
        for line in set(inputs.pop("skipped", ())) - self.skipped:
            self.skipped.add(line)
            logger.warning("skipped %s", line)
        inputs = super()._prepare_inputs(inputs)
        if isinstance(inputs.get("pixel_values"), Drawn):
            drawn = inputs["pixel_values"].to(self.args.device, non_blocking=True)
            inputs = {**inputs, "pixel_values": drawn.patches(PatchLayout())}
        loss = self._loss_of(inputs)
        return {**inputs, "loss": loss}

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: `Trainer`'s estimate knows no vision tokens, and goes through all modules at every step."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer` does; `eval_right` is the share of answers that the model would give word by word."""
        self._right = []
        return super().evaluate(*args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> tuple[Tensor, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        self._right += exact_answers(output.logits[0], inputs["logits_to_keep"], inputs["labels"][0])
        return output.loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer` does, but a loss that is no number ends the run."""
        if "eval_loss" in logs:
            counts = torch.tensor(Tally.of(self._right), device=self.args.device)
            logs["eval_right"] = Tally(*self.accelerator.reduce(counts).tolist()).mean
        super().log(logs, start_time)
        if "loss" in logs and not torch.isfinite(torch.tensor(logs["loss"])):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {self.state.global_step}; begin again with a lower learning rate, "
                "or go on from the last checkpoint with --resume"
            )

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return self._output_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write all files of a checkpoint beside its place, then move it there.

        Raises:
            TrainingError: it cannot be written, or weights or loss are no numbers; earlier ones are as they were.
        """
        step, place = self.state.global_step, Path(self.args.output_dir)
        if not self._finite(model):
            raise TrainingError(f"loss or weights are no numbers at step {step}; that makes no checkpoint")
        self._output_dir = str(place / UNFINISHED)
        try:
            with written_whole(place / UNFINISHED, f"the checkpoint of step {step}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    for written in list(Path(self._output_dir).iterdir()):
                        note_files(written)
                        finish(written, place / written.name)
        finally:
            self._output_dir = str(place)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # One of a later step is damaged, and must not be what is kept in place of this one.
            rotate_checkpoints(
                output_dir=str(place),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=str(place / f"{PREFIX_CHECKPOINT_DIR}-{step}"),
            )

    def _finite(self, model: nn.Module) -> bool:
        """Whether the loss and what learns are numbers, on all processes; each looks at its own pieces of weights."""
        learned = (one for one in model.parameters() if one.requires_grad)
        pieces = (one.to_local() if isinstance(one, DTensor) else one for one in learned)
        wrong = torch.stack([~torch.isfinite(one).all() for one in (self._tr_loss, *pieces)]).any()
        return not self.accelerator.reduce(wrong.long())

    def save_whole(self, name: str) -> Path:
        """Write the model, and the processor if the trainer has one, as a folder of the output.

        Raises:
            TrainingError: it cannot be written.
        """
        place = Path(self.args.output_dir)
        with written_whole(place / UNFINISHED, f"{place / name}"):
            self.save_model(str(place / UNFINISHED / name))
            if self.args.should_save:
                finish(place / UNFINISHED / name, place / name)
        self.accelerator.wait_for_everyone()
        return place / name


@contextmanager
def written_whole(staging: Path, what: str) -> Iterator[None]:
    """Around writing into a folder that is there only meanwhile.

    Raises:
        TrainingError: something could not be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{what} cannot be written ({error}); make room, and go on from the last complete checkpoint with --resume"
        ) from error
    finally:
        if first_process():
            shutil.rmtree(staging, ignore_errors=True)


def finish(written: Path, place: Path) -> None:
    """Have a folder's files on the disk for good, then give it its name; one of that name is replaced."""
    for file in [*written.rglob("*"), written]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    shutil.rmtree(place, ignore_errors=True)
    written.rename(place)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step in a folder that is complete by its names; its files are not read."""
    return next((path for path in reversed(numbered(folder)) if (path / TRAINER_STATE_NAME).is_file()), None)


# --- around the loop -------------------------------------------------------------------------------------------------


def packed_arguments(gpu: bool) -> dict[str, Any]:
    """What `TrainingArguments` are for packed batches in every run."""
    return {
        "bf16": gpu,
        "dataloader_pin_memory": gpu,
        "accelerator_config": {"non_blocking": gpu},
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,  # it would wait for the GPU at every step; `log` looks instead
        "report_to": ["tensorboard"],
    }


def compile_layers(model: nn.Module) -> None:
    """Have the forward of layers compiled, each kind once; what is hooked around it (pieces of weights that come from
    other GPUs, recomputing) stays outside."""
    for layer in model.modules():
        if isinstance(layer, SelfAttentionLayer | CrossAttentionLayer | VisionBlock):
            layer.forward = torch.compile(layer.forward, dynamic=True)  # type: ignore[method-assign]


class StopAfter(TrainerCallback):
    """Ends a run after some time, with a checkpoint to resume from.

    Args:
        seconds: from the start of the training.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size > 1 and state.global_step % TOGETHER:
            return
        late = torch.tensor(time.monotonic() - self.begun > self.seconds, device=args.device)
        if args.world_size > 1:  # all stop, or none
            torch.distributed.broadcast(late, 0)
        if late:
            control.should_save = control.should_training_stop = True


def workers() -> int:
    """Processes that make examples for each process that trains: one for each core that it has for itself, but one."""
    return max(1, (os.cpu_count() or 2) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)
