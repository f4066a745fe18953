"""The training loop: transformers' `Trainer` over packed batches, with checkpoints that appear only when complete."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
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

from mossvl.disk import finish
from mossvl.errors import OptionError, TrainingError
from mossvl.evaluation import Tally
from mossvl.model.language import TextModel
from mossvl.model.loss import Loss, next_token_loss
from mossvl.model.vision import VisionTower
from mossvl.processing.pixels import PatchLayout
from mossvl.ranks import first_process
from mossvl.training.accuracy import exact_answers
from mossvl.training.batches import Batch
from mossvl.training.checkpoints import note_files, numbered
from mossvl.training.synthetic import DrawnPictures
from mossvl.training.weighting import StateWeighting
from mossvl.training.workers import quiet

UNFINISHED = "unfinished"
"""The folder in which a checkpoint is written before it gets its name."""
AGREE_EVERY = 20
"""Steps between two agreements of several ranks on whether to stop."""

logger = logging.getLogger(__name__)


LossOf = Callable[[Batch], Loss]
"""Makes the loss of a batch on its device, and removes from the batch the keys that only the loss needs."""


def next_tokens(batch: Batch) -> Loss:
    """The default loss: all tokens with loss have the same weight."""
    return next_token_loss


class PackedTrainer(Trainer):
    """`Trainer` for packed batches; it draws the pictures of a `DrawnPictures` on the device.

    It switches cuDNN's attention off for the whole process.

    Args:
        loss_of: makes the loss of each batch; a `StateWeighting` also weighs the tokens of a whole step.

    Attributes:
        skipped: "FILE: line 3: why" of the bad records so far; each is logged once.
    """

    def __init__(self, *args: Any, loss_of: LossOf = next_tokens, **kwargs: Any) -> None:
        arguments: TrainingArguments = kwargs["args"]
        # One process drives one GPU: `Trainer` would split packed rows over all visible GPUs.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(*args, **kwargs)
        # cuDNN's attention takes 10 ms to plan for each new number of pictures, that is in nearly every step.
        torch.backends.cuda.enable_cudnn_sdp(False)
        sharding = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if sharding is not None and isinstance(sharding.mixed_precision_policy, MixedPrecisionPolicy):
            # Keep rotary angles and the loss in float32; autocast lowers the inputs of products.
            sharding.mixed_precision_policy = replace(
                sharding.mixed_precision_policy, cast_forward_inputs=False, output_dtype=None
            )
        self._loss_of = loss_of
        self._step_losses: list[Tensor] = []
        self.skipped: set[str] = set()
        self._right: list[bool] = []
        self._output_dir = self.args.output_dir
        if first_process():  # In a run without steps left, rank 0 may write here before other ranks have started.
            shutil.rmtree(Path(self.args.output_dir, UNFINISHED), ignore_errors=True)

    def train(self, resume_from_checkpoint: str | None = None, *args: Any, **kwargs: Any) -> TrainOutput | None:
        """As `Trainer` does; if the checkpoint to resume from is of the last step, only load it and return None."""
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint, TRAINER_STATE_NAME)))
            if state.global_step >= (self.args.max_steps if self.args.max_steps > 0 else state.max_steps):
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return None
        # PEFT would cast the inputs of adapters to float32, before autocast casts them down again.
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
        if isinstance(inputs.get("pixel_values"), DrawnPictures):
            drawn = inputs["pixel_values"].to(self.args.device, non_blocking=True)
            inputs = {**inputs, "pixel_values": drawn.patches(PatchLayout())}
        loss = self._loss_of(inputs)
        return {**inputs, "loss": loss}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Batch], Any]:
        """As `Trainer` does: the batches of a step, and their number of tokens with loss.

        Raises:
            OptionError: the weights of state tokens are to be corrected, which DeepSpeed does not allow.
        """
        batches, count = super().get_batch_samples(*args, **kwargs)
        weighting = self._loss_of
        if isinstance(weighting, StateWeighting) and batches:
            processes = self.accelerator.num_processes
            found = weighting.begin(batches, self.args.device, processes, self.accelerator.reduce)
            if self.is_deepspeed_enabled and weighting.gamma and found:
                raise OptionError(
                    "{focal_gamma=} corrects the gradients of a whole step, which DeepSpeed hides; "
                    "train with FSDP2, or give focal_gamma=0",
                    given={"focal_gamma": weighting.gamma},
                )
        return batches, count

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(model, *args, **kwargs)
        if not isinstance(self._loss_of, StateWeighting):
            return loss
        self._step_losses.append(loss)
        if not self.accelerator.sync_gradients:
            return loss
        whole, self._step_losses = torch.stack(self._step_losses).sum(), []
        factor = self._loss_of.end(self.accelerator.reduce)
        if factor is None:
            return loss
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        torch._foreach_mul_([one.to_local() if isinstance(one, DTensor) else one for one in gradients], factor)
        return loss + (factor - 1) * whole

    def floating_point_ops(self, inputs: Batch) -> int:
        """0: `Trainer`'s estimate ignores vision tokens, and walks all modules at every step."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer` does; `eval_right` is the share of exact greedy answers (see `training/accuracy.py`)."""
        self._right = []
        return super().evaluate(*args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> tuple[Tensor, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        self._right += exact_answers(output.logits[0], inputs["logits_to_keep"], inputs["labels"][0])
        return output.loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer` does, but a loss that is not finite ends the run.

        Raises:
            TrainingError: the loss is not finite.
        """
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
        """Write a checkpoint into the folder `UNFINISHED`, then rename it.

        Raises:
            TrainingError: the checkpoint cannot be written, or weights or loss are not finite; earlier checkpoints are
                unchanged.
        """
        step, output = self.state.global_step, Path(self.args.output_dir)
        if not self._finite(model):
            raise TrainingError(
                f"loss or weights are no numbers at step {step}, so no checkpoint is written; begin again with a lower "
                "learning rate, or go on from the last checkpoint with --resume"
            )
        self._output_dir = str(output / UNFINISHED)
        try:
            with written_whole(output / UNFINISHED, f"the checkpoint of step {step}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    for written in list(Path(self._output_dir).iterdir()):
                        note_files(written)
                        finish(written, output / written.name)
        finally:
            self._output_dir = str(output)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # Protect this checkpoint from rotation: any checkpoint of a later step is damaged.
            rotate_checkpoints(
                output_dir=str(output),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=str(output / f"{PREFIX_CHECKPOINT_DIR}-{step}"),
            )

    def _finite(self, model: nn.Module) -> bool:
        """Whether the loss and the trained weights are finite on all ranks; each rank checks its own shards."""
        trained = (one for one in model.parameters() if one.requires_grad)
        shards = (one.to_local() if isinstance(one, DTensor) else one for one in trained)
        wrong = torch.stack([~torch.isfinite(one).all() for one in (self._tr_loss, *shards)]).any()
        return not self.accelerator.reduce(wrong.long())

    def save_whole(self, name: str) -> Path:
        """Write the model, and the processor if the trainer has one, to the folder `name` of the output; return it.

        Raises:
            TrainingError: the folder cannot be written.
        """
        output = Path(self.args.output_dir)
        with written_whole(output / UNFINISHED, f"{output / name}"):
            self.save_model(str(output / UNFINISHED / name))
            if self.args.should_save:
                finish(output / UNFINISHED / name, output / name)
        self.accelerator.wait_for_everyone()
        return output / name


@contextmanager
def written_whole(staging: Path, what: str) -> Iterator[None]:
    """A context in which `what` is written into the folder `staging`, which is removed afterwards.

    Raises:
        TrainingError: writing has failed.
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


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step in a folder that has a trainer state; no file is read."""
    return next((path for path in reversed(numbered(folder)) if (path / TRAINER_STATE_NAME).is_file()), None)


# --- around the loop -------------------------------------------------------------------------------------------------


def packed_arguments(gpu: bool) -> dict[str, Any]:
    """`TrainingArguments` that all runs with packed batches share."""
    return {
        "bf16": gpu,
        "dataloader_pin_memory": gpu,
        "accelerator_config": {"non_blocking": gpu},
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,  # The filter would wait for the GPU at every step; `log` checks instead.
        "report_to": ["tensorboard"],
    }


def compile_layers(model: nn.Module) -> None:
    """Compile the forward of each layer; hooks around it (gathering of shards, recomputation) are not compiled.

    Blocks of a vision tower with `frozen_ops` are kernels already.
    """
    keep_compiled()
    # Otherwise layers are traced twice: with their floats (eps, scales of adapters) as inputs, and then without.
    torch._dynamo.config.specialize_float = True
    for module in model.modules():
        layers: Iterable[nn.Module] = ()
        if isinstance(module, TextModel):
            layers = module.layers
        elif isinstance(module, VisionTower) and module.frozen_ops is None:
            layers = module.blocks
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)


def keep_compiled() -> None:
    """Make PyTorch keep compiled code in the user's cache folder, for later runs, and not in a temporary folder.

    `TORCHINDUCTOR_CACHE_DIR`, if set, names another folder.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mossvl" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # There is no home, or nobody may write there.
        return
    if os.access(folder, os.W_OK):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def agreed(value: int, args: TrainingArguments) -> int:
    """Return rank 0's value, on all ranks: those that stop must do so at the same step."""
    told = torch.tensor(value, device=args.device)
    if args.world_size > 1:
        torch.distributed.broadcast(told, 0)
    return int(told)


class StopAfter(TrainerCallback):
    """Stops a run after some time, with a checkpoint to resume from.

    Args:
        seconds: wall time from the start of the training.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size > 1 and state.global_step % AGREE_EVERY:
            return
        if agreed(time.monotonic() - self.begun > self.seconds, args):
            control.should_save = control.should_training_stop = True
