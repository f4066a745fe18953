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

    def stored(self, name: str, linear: QuantizedLinear, headers: Headers) -> Stored:
        """What the checkpoint holds of a map."""
        ...


class Unquantized:
    """The format of plain checkpoints, whose weights are quantized while they are read."""

    told = "not quantized"

    def schemes(self, model: nn.Module, headers: Headers) -> Schemes:
        return {}

    def stored(self, name: str, linear: QuantizedLinear, headers: Headers) -> Stored:
        return Stored({".weight": Rows.of(linear)})


def targets_of(
    model: nn.Module, form: Format, headers: Headers
) -> tuple[dict[str, Target], dict[str, Callable[[], None]]]:
    """Return what is filled with the tensors of a checkpoint, by name, and what finishes each quantized map."""
    targets: dict[str, Target] = dict(model.state_dict())
    finishing = {}
    for name, linear in quantized_maps(model):
        for own in linear.state_dict():
            del targets[f"{name}.{own}"]
        stored = form.stored(name, linear, headers)
        targets |= {f"{name}{end}": target for end, target in stored.targets.items()}
        finishing[name] = stored.finish
    return targets, finishing
