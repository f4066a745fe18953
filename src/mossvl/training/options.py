"""Options of a run of fine-tuning. This module does not import PyTorch, so that `mossvl train --help` is quick."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from mossvl.errors import CheckpointError, OptionError
from mossvl.options import MediaOptions
from mossvl.options.checks import Choice, Count, CountFrom0, Number, Positive, check_options
from mossvl.options.engine import QUANTIZATIONS
from mossvl.ranks import num_processes


class Part(StrEnum):
    """Parts of the model that can be trained; see `part_of` of `training/parts.py`."""

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
Share = Annotated[float, Number(least=0, below=1)]
INNER = (Part.MERGER, Part.CROSS_ATTENTION, Part.SELF_ATTENTION)
"""Parts that are trained by default."""


@dataclass(frozen=True)
class TrainOptions:
    """A run of fine-tuning.

    Args:
        checkpoint: the folder to start from.
        data: a file of records, or a folder of such files.
        output: the folder of checkpoints and of the result (`adapter` or `model`); None only if nothing is trained.
        eval_data: records to evaluate on, every `eval_every` steps and at the end.
        media_dir: the folder of relative paths of media; by default that of the data.
        adapt: train adapters (LoRA) of `rank`, scaled by `alpha` / `rank`, with `dropout`; else the weights themselves.
        parts: the parts of the model to train.
        epochs, max_steps: length of the run; `max_steps` overrides `epochs` if above 0.
        batch, accumulate: a step has `batch` · `accumulate` · world size examples; each batch is one packed row.
        learning_rate: the peak, reached after the share `warmup` of all steps; a cosine decay follows.
        weight_decay: of AdamW.
        max_length: tokens to which examples are truncated.
        bad: "skip" bad records, or "stop" at the first.
        state_loss: weights of the state tokens of live streams in the loss: "focal" (see `training/weighting.py`), or
            "plain", the weight of text.
        focal_gamma: γ of "focal": how little decisions weigh that the model is sure of.
        leading_slot_dropout: share of a stream's turns that begin with a frame in place of `<|silence|>`.
        turn_end_loss: whether the `<|im_end|>` of a stream's turns has loss, too.
        gradient_checkpointing: recompute activations in the backward pass, for less memory.
        vision_chunk: frames encoded at a time; None for all of a batch.
        compile: compile layers, on a GPU.
        quantization: quantize the weights that adapters are trained for (QLoRA), as `mossvl.load` does.
        save_every, eval_every, log_every: in steps.
        keep: number of checkpoints that are kept.
        workers: processes that read and decode records, on each rank.
        resume: resume from the latest undamaged checkpoint in `output`.

    Raises:
        OptionError: a number is out of range, no part is chosen, or quantized weights would be trained.
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
    dropout: Share = 0.0
    epochs: Positive = 1.0
    max_steps: CountFrom0 = 0
    batch: Count = 1
    accumulate: Count = 1
    learning_rate: Positive = 1e-4
    warmup: Share = 0.03
    weight_decay: Annotated[float, Number(least=0)] = 0.0
    max_length: Count | None = None
    bad: Annotated[Literal["skip", "stop"], Choice(("skip", "stop"))] = "skip"
    state_loss: Annotated[Literal["focal", "plain"], Choice(("focal", "plain"))] = "focal"
    focal_gamma: Annotated[float, Number(least=0)] = 2.0
    leading_slot_dropout: Annotated[float, Number(least=0, most=1)] = 0.1
    turn_end_loss: bool = False
    gradient_checkpointing: bool = False
    vision_chunk: Count | None = None
    compile: bool = False
    device: str | None = None
    dtype: str | None = None
    quantization: Annotated[str, Choice(QUANTIZATIONS)] | None = None
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
            OptionError: `output` is None.
        """
        if self.output is None:
            raise OptionError("no {output}; name a folder for checkpoints and the result", option="output")
        return self.output

    def differences(self, file: Path) -> dict[str, str]:
        """Fixed options that differ from those in a file of `note`: {"max_steps": "6 (was 3)"}.

        Raises:
            CheckpointError: the file is damaged.
        """
        noted = _noted(file) if file.is_file() else {}
        fixed = self._fixed()
        differing = (name for name in fixed if name in noted and noted[name] != fixed[name])
        return {name: f"{fixed[name]} (was {noted[name]})" for name in differing}

    def note(self, file: Path) -> None:
        """Write the fixed options to a file, atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._fixed(), indent=1))
        unfinished.replace(file)

    def _fixed(self) -> dict[str, str]:
        """Options that must not change when the run is resumed, as texts."""
        fixed = {one.name: str(getattr(self, one.name)) for one in fields(self) if one.name not in FREE}
        return {**fixed, "parts": " ".join(self.parts), "processes": str(num_processes())}

    def __post_init__(self) -> None:
        if not self.parts:
            raise OptionError(f"{{parts}}: no part is trained; choose some of {', '.join(Part)}", option="parts")
        object.__setattr__(self, "parts", tuple(dict.fromkeys(self.parts)))
        check_options(self)
        if self.quantization and not self.adapt:
            raise OptionError(
                "{quantization=} is for adapters; quantized weights cannot be trained themselves",
                given={"quantization": self.quantization},
            )


def _noted(file: Path) -> dict[str, str]:
    """Read a file of `TrainOptions.note`."""
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
