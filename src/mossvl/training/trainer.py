"""The training loop: transformers' `Trainer`, over packed batches."""

import os
import time
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mossvl.model.layers import CrossAttentionLayer, SelfAttentionLayer
from mossvl.model.vision import VisionBlock
from mossvl.processing.pixels import PatchLayout
from mossvl.training.synthetic import Drawn


class PackedTrainer(Trainer):
    """`Trainer` whose batches are packed; pictures that are not yet drawn are drawn on the device."""

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        if isinstance(inputs["pixel_values"], Drawn):
            drawn = inputs["pixel_values"].to(self.args.device, non_blocking=True)
            inputs = {**inputs, "pixel_values": drawn.patches(PatchLayout())}
        return inputs


def compile_layers(model: nn.Module) -> None:
    """Have layers compiled, each kind once: for a small model, whose many small operations would leave a GPU idle."""
    for layer in model.modules():
        if isinstance(layer, SelfAttentionLayer | CrossAttentionLayer | VisionBlock):
            layer.compile(dynamic=True)


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
        if time.monotonic() - self.begun > self.seconds:
            control.should_save = control.should_training_stop = True


def workers() -> int:
    """Processes that make examples for each process that trains: one for each core that it has for itself, but one."""
    return max(1, (os.cpu_count() or 2) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)
