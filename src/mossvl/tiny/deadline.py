"""A stage of training that ends at a given time, whatever a step takes."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mossvl.tiny.recipe import Stage
from mossvl.training.trainer import AGREE_EVERY, agreed

WINDOW = 25
"""Agreements over which the pace is measured: pauses for evaluation count."""


class Deadline(TrainerCallback):
    """Sets a run's number of steps to what fits into the time that is left.

    Every `AGREE_EVERY` steps, rank 0 measures the pace and tells the other ranks the number of steps. The pace does not
    count the steps before the first agreement, in which kernels are compiled.

    Args:
        at: when the last step should end, in seconds of `clock`.
        steps, warmup: optimizer steps of the stage (an upper bound) and of its warmup.
        decay: share of the steps in which the learning rate falls to 0.
        clock: tells seconds.
    """

    def __init__(
        self, at: float, steps: int, warmup: int, decay: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.at, self.limit, self.warmup, self.decay, self.clock = at, steps, warmup, decay, clock
        self.steps = steps
        self._agreed: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)

    @classmethod
    def of(cls, stage: Stage, at: float) -> "Deadline":
        """Return one that ends a stage; the share of its decay is that of the recipe."""
        return cls(at, stage.steps, stage.warmup, stage.decay / stage.steps)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, as a share of the stage's."""
        left = (self.steps - step) / max(self.decay * self.steps, 1)
        return max(0.0, min(1.0, (step + 1) / (self.warmup + 1), left))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % AGREE_EVERY:
            return
        now = self.clock()
        self._agreed.append((state.global_step, now))
        (first, since), (last, _) = self._agreed[0], self._agreed[-1]
        steps = self.steps
        if last > first:
            steps = min(self.limit, last + max(0, int((self.at - now) * (last - first) / (now - since))))
        elif now >= self.at:
            steps = last
        self.steps = state.max_steps = agreed(steps, args)
        control.should_training_stop |= state.global_step >= self.steps
