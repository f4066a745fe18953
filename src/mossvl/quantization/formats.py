"""What checkpoints hold of quantized maps: names of tensors, and where their values go."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from mossvl.quantization.linear import QuantizedLinear, Rows
from mossvl.quantization.schemes import Schemes, quantized_maps

Target = Tensor | Rows
"""What is filled with a checkpoint's tensor."""


class Info(Protocol):
    """What a header says of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...


Headers = Mapping[str, Info]
"""The headers of a checkpoint's tensors, by name."""


@dataclass(frozen=True)
class Whole:
    """The weight that a checkpoint has, of which a map's may be a part: that from `row` and `column` on."""

    out_features: int
    in_features: int
    row: int = 0
    column: int = 0

    @classmethod
    def of(cls, name: str, linear: nn.Linear) -> "Whole":
        """A map's own weight."""
        return cls(linear.out_features, linear.in_features)


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds of a map.

    Attributes:
        targets: by what follows the map's name: ".weight".
        finish: called with all targets filled; raises a CheckpointError if their values cannot be.
    """

    targets: Mapping[str, Target]
    finish: Callable[[], None] = field(default=lambda: None)


class Format(Protocol):
    """A format of quantized checkpoints, as a configuration describes it.

    Attributes:
        told: its name for readers.
    """

    @property
    def told(self) -> str: ...

    def schemes(self, model: nn.Module, headers: Headers) -> Schemes:
        """The schemes of the plain maps of a model that the checkpoint has quantized."""
        ...

    def stored(self, name: str, linear: QuantizedLinear, headers: Headers, whole: Whole) -> Stored:
        """What the checkpoint holds of a map."""
        ...


class Unquantized:
    """The format of plain checkpoints, whose weights are quantized while they are read."""

    told = "not quantized"

    def schemes(self, model: nn.Module, headers: Headers) -> Schemes:
        return {}

    def stored(self, name: str, linear: QuantizedLinear, headers: Headers, whole: Whole) -> Stored:
        return Stored({".weight": Rows.of(linear)})


def targets_of(
    model: nn.Module, form: Format, headers: Headers, whole: Callable[[str, nn.Linear], Whole] = Whole.of
) -> tuple[dict[str, Target], dict[str, Callable[[], None]]]:
    """Return what is filled with the tensors of a checkpoint, by name, and what finishes each quantized map.

    Args:
        whole: tells of which weight that of a map is a part.
    """
    targets: dict[str, Target] = dict(model.state_dict())
    finishing = {}
    for name, linear in quantized_maps(model):
        for own in linear.state_dict():
            del targets[f"{name}.{own}"]
        stored = form.stored(name, linear, headers, whole(name, linear))
        targets |= {f"{name}{end}": target for end, target in stored.targets.items()}
        finishing[name] = stored.finish
    return targets, finishing
