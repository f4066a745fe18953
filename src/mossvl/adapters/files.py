"""The files of an adapter, read strictly: tensors that do not fit its configuration or the model are an error."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mossvl.adapters.config import AdapterConfig
from mossvl.checkpoints.headers import TensorInfo, file_headers
from mossvl.checkpoints.location import repository_of
from mossvl.errors import CheckpointError
from mossvl.quantization.formats import Whole

Part = Callable[[str, nn.Linear], Whole]
"""Tells, by its name, of which weight that of a map is a part."""
WEIGHTS = "adapter_model.safetensors"
FILES = ("adapter_config.json", WEIGHTS)
"""The files of an adapter that are read."""
LISTED = 3
"""Names that an error message lists."""
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
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
        ends = {name: next((end for end in (DOWN, UP) if name.endswith(end)), None) for name in found}
        strange = [name for name, end in ends.items() if end is None or not name.startswith(PREFIX)]
        if strange or not found:
            raise CheckpointError(
                f"{folder / WEIGHTS} has {_listed(strange) or 'no tensors'}; expected {PREFIX}…{DOWN} and …{UP} of the "
                "linear maps that PEFT adapts"
            )
        maps = sorted({name.removeprefix(PREFIX).removesuffix(end or "") for name, end in ends.items()})
        alone = [name for one in maps for name in (f"{PREFIX}{one}{DOWN}", f"{PREFIX}{one}{UP}") if name not in found]
        if alone:
            raise CheckpointError(f"{folder / WEIGHTS} lacks {_listed(alone)}; get the file again")
        elsewhere = [name for name in maps if not name.startswith(PLACES)]
        if elsewhere:
            raise CheckpointError(
                f"{folder} adapts {_listed(elsewhere)}; at run time, only the decoder's layers and the vision tower "
                "can have adapters. Merge it into its checkpoint (mossvl merge)"
            )
        return cls(folder, config, found, tuple(maps))

    def check(self, model: nn.Module, checkpoint: str, whole: Part = Whole.of) -> None:
        """Refuse an adapter of another base.

        Args:
            checkpoint: where the model is from; "" if unknown.
            whole: tells of which weight that of a map is a part.

        Raises:
            CheckpointError: its base is another repository, or its tensors do not fit the model's maps.
        """
        base = self.config.base
        if _is_another(base, checkpoint):
            raise CheckpointError(f"{self.folder} is an adapter of {base}, but the checkpoint is {checkpoint}")
        linears = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
        lines = [f"no linear map {name}" for name in self.maps if name not in linears]
        for name in [one for one in self.maps if one in linears]:
            rank, one = self.config.rank_of(name), whole(name, linears[name])
            expected = {DOWN: (rank, one.in_features), UP: (one.out_features, rank)}
            for end, shape in expected.items():
                has = self.found[f"{PREFIX}{name}{end}"].shape
                lines += [] if has == shape else [f"{name}{end} is {list(has)}, expected {list(shape)}"]
        if lines:
            raise CheckpointError(
                f"{self.folder} does not fit {checkpoint or 'the model'}: {_listed(lines, '; ')}. It is an adapter of "
                f"another checkpoint{f' ({base})' if base else ''}, or damaged"
            )
        missing = [name for name in linears if self.config.adapts(name) and name not in self.maps]
        if missing:
            raise CheckpointError(
                f"{self.folder / WEIGHTS} lacks the adapters of {_listed(missing)}, which its configuration names"
            )

    def low_ranks(self, model: nn.Module, dtype: torch.dtype, whole: Part = Whole.of) -> Iterator[tuple[str, LowRank]]:
        """Read the tensors: yield (name of a map, what is added to it), on the map's device and in a dtype.

        Args:
            whole: tells of which weight that of a map is a part; the part's adapter is read, too.

        Raises:
            CheckpointError: a value is not finite.
        """
        with safe_open(self.folder / WEIGHTS, framework="pt") as file:
            for name in self.maps:
                linear = model.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                row, column = (part := whole(name, linear)).row, part.column
                down = file.get_slice(f"{PREFIX}{name}{DOWN}")[:, column : column + linear.in_features]
                up = file.get_slice(f"{PREFIX}{name}{UP}")[row : row + linear.out_features]
                up = up.float() * self.config.scale_of(name)
                device = next(iter((*linear.parameters(), *linear.buffers()))).device
                one = LowRank(down.to(dtype), up.to(dtype))
                if not all(tensor.isfinite().all() for tensor in one):
                    told = str(dtype).removeprefix("torch.")
                    raise CheckpointError(
                        f"{self.folder / WEIGHTS}: the adapter of {name} is not finite in {told}; train it again"
                    )
                yield name, LowRank(*(tensor.to(device) for tensor in one))


def _is_another(base: str, checkpoint: str) -> bool:
    """Whether both are repositories, and neither is named as a variant (quantized, say) of the other."""
    repositories = repository_of(base), repository_of(checkpoint)
    if None in repositories:
        return False
    first, second = (name.rpartition("/")[2].lower() for name, _ in filter(None, repositories))
    return not (first.startswith(second) or second.startswith(first))


def _listed(lines: list[str], between: str = ", ") -> str:
    more = f"{between}and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return between.join(lines[:LISTED]) + more
