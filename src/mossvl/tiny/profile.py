"""Where the time of a step of training goes."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FIRST, STEPS = 100, 3
"""The first step that is profiled, and how many are: kernels have been compiled by then."""
ROWS = 40


class Profile(TrainerCallback):
    """Writes which kernels some steps consist of, and how long the device works in them.

    Args:
        path: a text file.
        first, steps: the steps that are profiled.
    """

    def __init__(self, path: Path, first: int = FIRST, steps: int = STEPS) -> None:
        self.path, self.first, self.steps = path, first, steps
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profiler, self._begun = profile(activities=kinds), 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == self.first:
            self._profiler.start()
            self._begun = time.monotonic()
        if state.global_step == self.first + self.steps:
            self._profiler.stop()
            self._write((time.monotonic() - self._begun) / self.steps)

    def _write(self, seconds: float) -> None:
        averages = self._profiler.key_averages()
        busy = sum(one.self_device_time_total for one in averages) / self.steps / 1e3
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        lines = [
            f"{1e3 * seconds:.1f} ms a step, of which the GPU works {busy:.1f} ms",
            averages.table(sort_by=by, row_limit=ROWS, max_name_column_width=90),
            averages.table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=90),
        ]
        self.path.write_text("\n\n".join(lines))
