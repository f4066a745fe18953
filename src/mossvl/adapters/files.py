"""The files of an adapter, read strictly: tensors that do not fit its configuration or the model are an error."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mossvl.adapters.config import CONFIG, AdapterConfig
from mossvl.checkpoints.headers import TensorInfo, differences, file_headers, mistyped
from mossvl.checkpoints.location import repository_of
from mossvl.errors import CheckpointError
from mossvl.quantization.formats import Whole

Part = Callable[[str, nn.Linear], Whole]
"""Tells, by its name, of which weight that of a map is a part."""
WEIGHTS = "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
"""The files of an adapter that are read."""
LISTED, LONGEST = 3, 160
"""What an error message lists of names, and characters of each."""
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
TENSOR = re.compile(r"base_model\.model\.(?P<map>\w[\w.]*)\.lora_[AB]\.weight", re.ASCII)
"""Names of tensors: both of a map."""
PLACES = ("model.language_model.layers.", "model.visual.")
"""Where maps may have adapters: all but the head and the embeddings."""


class LowRank(NamedTuple):
    """What an adapter adds to a map of x: up(down(x)).

    Attributes:
        down: (rank, in features).
        up: (out features, rank), the scale included.
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter on disk, of which the configuration and the names of tensors are read.

    Attributes:
        found: its tensors, by their names in the file.
        maps: names of the maps that it adapts, as the model has them.
    """

    folder: Path
    config: AdapterConfig
    found: Mapping[str, TensorInfo]
    maps: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "AdapterFiles":
        """Read what can be read without the model.

        Raises:
            CheckpointError: a file is missing or broken, or the adapter has other tensors than plain LoRA has.
        """
        config = AdapterConfig.read(folder)
        if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
            raise CheckpointError(
                f"{folder} has only adapter_model.bin, which may hold code; save it again with PEFT as {WEIGHTS}"
            )
        found = file_headers(folder / WEIGHTS)
        named = {name: TENSOR.fullmatch(name) for name in found}
        strange = [repr(name) for name, match in named.items() if match is None]
        if strange or not found:
            raise CheckpointError(
                f"{folder / WEIGHTS} has {_listed(strange) or 'no tensors'}; expected {PREFIX}…{DOWN} and …{UP} of the "
                "linear maps that PEFT adapts"
            )
        return cls(folder, config, found, tuple(sorted({match["map"] for match in named.values() if match})))

    def check(self, model: nn.Module, checkpoint: str, whole: Part = Whole.of) -> None:
        """Refuse an adapter of another base.

        Args:
            checkpoint: where the model is from; "" if unknown.
            whole: tells of which weight that of a map is a part.

        Raises:
            CheckpointError: its base is another repository, or its tensors are not those that its configuration names,
                of maps of the model that can have adapters.
        """
        base = self.config.base
        if _is_another(base, checkpoint):
            raise CheckpointError(
                f"{self.folder} is an adapter of {base!r:.{LONGEST}}, but the checkpoint is {checkpoint}; take its "
                f"own base, or correct base_model_name_or_path in {CONFIG} if both are the same"
            )
        modules = dict(model.named_modules())
        linears = {name: one for name, one in modules.items() if isinstance(one, nn.Linear) and name.startswith(PLACES)}
        elsewhere = [name for name in self.maps if name in modules and name not in linears]
        if elsewhere:
            raise CheckpointError(
                f"{self.folder} adapts {_listed(elsewhere)}; at run time, only linear maps of the decoder's layers and "
                "of the vision tower can have adapters. Merge it into its checkpoint (mossvl merge)"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for name, linear in linears.items():
            if name in self.maps or self.config.adapts(name):
                rank, one = self.config.rank_of(name), whole(name, linear)
                shapes |= {f"{PREFIX}{name}{DOWN}": (rank, one.in_features)}
                shapes |= {f"{PREFIX}{name}{UP}": (one.out_features, rank)}
        lines = differences(shapes, {name: info.shape for name, info in self.found.items()})
        lines += mistyped(dict.fromkeys(shapes, torch.empty(0)), self.found)
        if lines:
            raise CheckpointError(
                f"{self.folder} does not fit {checkpoint or 'the model'}: {_listed(lines, '; ')}. It is an adapter of "
                f"another checkpoint{f' ({base!r:.{LONGEST}})' if base else ''}, or damaged"
            )

    def low_ranks(self, model: nn.Module, dtype: torch.dtype, whole: Part = Whole.of) -> Iterator[tuple[str, LowRank]]:
        """Read the tensors: yield (name of a map, what is added to it), on the map's device and in a dtype.

        Args:
            whole: tells of which weight that of a map is a part; what is yielded is for this part.

        Raises:
            CheckpointError: a value is not finite, be it of this part or another.
        """
        with safe_open(self.folder / WEIGHTS, framework="pt") as file:
            for name in self.maps:
                linear = model.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                down = file.get_tensor(f"{PREFIX}{name}{DOWN}").to(dtype)
                up = (file.get_tensor(f"{PREFIX}{name}{UP}").float() * self.config.scale_of(name)).to(dtype)
                if not (down.isfinite().all() and up.isfinite().all()):
                    told = str(dtype).removeprefix("torch.")
                    raise CheckpointError(
                        f"{self.folder / WEIGHTS}: the adapter of {name} is not finite in {told}; train it again"
                    )
                row, column = (part := whole(name, linear)).row, part.column
                own = down[:, column : column + linear.in_features], up[row : row + linear.out_features]
                device = next(iter((*linear.parameters(), *linear.buffers()))).device
                # Copies: what was read may be the file itself, mapped into memory, which others may write.
                yield name, LowRank(*(one.to(device, copy=True) for one in own))


def _is_another(base: str, checkpoint: str) -> bool:
    """Whether both are repositories, and neither is named as a variant (quantized, say) of the other."""
    repositories = repository_of(base), repository_of(checkpoint)
    if None in repositories:
        return False
    first, second = (name.rpartition("/")[2].lower() for name, _ in filter(None, repositories))
    return not (first.startswith(second) or second.startswith(first))


def _listed(lines: list[str], between: str = ", ") -> str:
    more = f"{between}and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return between.join(f"{line:.{LONGEST}}" for line in lines[:LISTED]) + more
