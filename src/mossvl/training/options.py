"""What a run of fine-tuning is told. Nothing here needs PyTorch, so that `mossvl train --help` is quick."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Literal

from mossvl.errors import CheckpointError, OptionError
from mossvl.options import MediaOptions
from mossvl.options.checks import Count, CountFrom0, check_options
from mossvl.processes import num_processes


class Part(StrEnum):
    """Where parameters belong."""

    VISION = "vision"
    MERGER = "merger"
    CROSS_ATTENTION = "cross-attention"
    SELF_ATTENTION = "self-attention"
    EMBEDDINGS = "embeddings"
    LM_HEAD = "lm-head"


FREE = {
    "output",
    "resume",
    "device",
    "workers",
    "save_every",
    "eval_every",
    "log_every",
    "keep",
    "eval_data",
    "compile",
}
"""Options that may change when a run is resumed."""
INNER = (Part.MERGER, Part.CROSS_ATTENTION, Part.SELF_ATTENTION)


@dataclass(frozen=True)
class TrainOptions:
    """A run of fine-tuning.

    Args:
        checkpoint: the folder to start from.
        data: a file of records, or a folder of such files.
        output: where checkpoints go, and at the end `model`, or `adapter`; None only where nothing is trained.
        eval_data: records to evaluate with, every `eval_every` steps and at the end.
        media_dir: where relative paths of media start; by default beside the data.
        adapt: train adapters of this `rank` (LoRA), scaled by `alpha` / `rank`; else the weights themselves.
        parts: what is trained.
        epochs, max_steps: how long; `max_steps` counts if it is above 0.
        batch, accumulate: examples of a step are `batch` · `accumulate` · GPUs; each batch is one packed row.
        max_length: tokens of an example; longer ones are cut.
        bad: skip records that cannot be used, or stop at the first.
        gradient_checkpointing: compute layers twice, for less memory.
        vision_chunk: frames encoded at a time; None for all of a batch.
        compile: have layers compiled, on a GPU.
        keep: how many checkpoints are kept.
        resume: go on from the last checkpoint in `output`.

    Raises:
        OptionError: a number is out of range, or no part is chosen.
    """

    checkpoint: str
    data: Path
    output: Path | None = None
    eval_data: Path | None = None
    media_dir: Path | None = None
    adapt: bool = True
    parts: Sequence[Part] = INNER
    rank: Count = 16
    alpha: Count = 32
    dropout: float = 0.0
    epochs: float = 1.0
    max_steps: CountFrom0 = 0
    batch: Count = 1
    accumulate: Count = 1
    learning_rate: float = 1e-4
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_length: Count | None = None
    bad: Literal["skip", "stop"] = "skip"
    gradient_checkpointing: bool = False
    vision_chunk: Count | None = None
    compile: bool = False
    device: str | None = None
    dtype: str | None = None
    save_every: Count = 500
    eval_every: Count = 500
    log_every: Count = 10
    keep: Count = 2
    workers: CountFrom0 = 2
    seed: int = 0
    resume: bool = False
    media: MediaOptions = field(default_factory=MediaOptions)

    @property
    def folder(self) -> Path:
        """The `output` of a run that trains.

        Raises:
            OptionError: none is named.
        """
        if self.output is None:
            raise OptionError("no output (--output); name a folder for checkpoints and the result")
        return self.output

    def differences(self, file: Path) -> list[str]:
        """What decides what is learned and was another in the run that noted its options in a file.

        Each is told as "max_steps=6 (was 3)".

        Raises:
            CheckpointError: the file is damaged.
        """
        noted = _noted(file) if file.is_file() else {}
        return [
            f"{name}={value} (was {noted[name]})"
            for name, value in self._deciding().items()
            if name in noted and noted[name] != value
        ]

    def note(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._deciding(), indent=1))
        unfinished.replace(file)

    def _deciding(self) -> dict[str, str]:
        deciding = {one.name: str(getattr(self, one.name)) for one in fields(self) if one.name not in FREE}
        return {**deciding, "parts": " ".join(self.parts), "processes": str(num_processes())}

    def __post_init__(self) -> None:
        if not self.parts:
            raise OptionError(f"no part is trained; choose some of {', '.join(Part)}")
        object.__setattr__(self, "parts", tuple(dict.fromkeys(self.parts)))
        check_options(self)
        if not (self.epochs > 0 and self.learning_rate > 0 and 0 <= self.warmup < 1 and 0 <= self.dropout < 1):
            raise OptionError(
                f"epochs={self.epochs} and learning_rate={self.learning_rate} must be above 0, warmup={self.warmup} "
                f"and dropout={self.dropout} between 0 and 1"
            )


def _noted(file: Path) -> dict[str, str]:
    """The options that a run noted."""
    try:
        noted = json.loads(file.read_text())
        if isinstance(noted, dict):
            return noted
        reason = f"{type(noted).__name__} instead of an object"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(
        f"{file}, where the run noted its options, is damaged ({reason}); remove it to go on without comparing them"
    )
