"""The operations of the vision tower, and their plain implementation in PyTorch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.xrope import Rope, rotate
from mossvl.processing.pixels import Grid, normalise

Stream = Any
"""The residual stream between layers, in a form that only its `VisionOps` knows."""


@dataclass(frozen=True)
class Frames:
    """Which rows are one frame, and the position of each patch in its frame."""

    runs: tuple[tuple[int, int], ...]
    """(frames, patches in each) of consecutive frames of the same length."""
    positions: Tensor
    """(entries, hidden): learned positions, in the weights' dtype."""
    rope: Rope
    """float32 cos and sin, (entries, head_dim)."""
    entry: Tensor | None = None
    """(patches,) int32: the entry of each patch; None if every patch has its own, in order."""

    def rows(self, start: int, stop: int) -> "Frames":
        """The part that `VisionOps.start` needs for the rows [start, stop)."""
        if self.entry is not None:
            return replace(self, entry=self.entry[start:stop])
        return replace(self, positions=self.positions[start:stop])


class VisionOps(Protocol):
    """The operations of the tower's modules. Rows are patches."""

    def pixels(self, patches: Tensor, weight: Tensor) -> Tensor:
        """Patches (rows, features) on `weight`'s device in its dtype; uint8 patches are normalised."""
        ...

    def frames(self, table: Tensor, grids: Sequence[Grid], config: MossVLVisionConfig) -> Frames:
        """The frames of `grids`; `table` is the square of learned positions, (side², hidden)."""
        ...

    def start(self, x: Tensor, frames: Frames) -> Stream:
        """A residual stream: embedded patches x (rows, hidden), plus learned positions. May overwrite x."""
        ...

    def norm(self, x: Stream, norm: nn.LayerNorm) -> tuple[Stream, Tensor]:
        """The stream, and its normalised value (rows, hidden)."""
        ...

    def add(self, x: Stream, linear: nn.Linear, h: Tensor) -> Stream:
        """The stream with linear(h) added. May overwrite the stream x."""
        ...

    def value(self, x: Stream) -> Tensor:
        """The value of the stream, (rows, hidden), which later calls of `add` do not overwrite."""
        ...

    def attention(self, qkv: Tensor, frames: Frames) -> Tensor:
        """Attention within each frame, with rotated q and k: (rows, 3, heads, head_dim) → (rows, heads, head_dim).

        May overwrite `qkv`.
        """
        ...

    def attention_in_parts(self, qkv: Tensor, frames: Frames, queries: int) -> Iterator[Tensor]:
        """As `attention`, for one frame, `queries` rows at a time."""
        ...

    def activated(self, linear: nn.Linear, act: nn.Module, x: Tensor) -> Tensor:
        """act(linear(x))."""
        ...

    def norms(self, levels: Sequence[Tensor], norms: nn.ModuleList) -> Tensor:
        """Each level (rows, hidden), normalised by its own norm, side by side: (rows, levels · hidden)."""
        ...


@dataclass(frozen=True)
class PlainOps:
    """PyTorch's operations: differentiable, on every device, for modules that an adapter may have replaced."""

    mean: Sequence[float] = (0.5, 0.5, 0.5)
    """By channel, of uint8 pixels / 255."""
    std: Sequence[float] = (0.5, 0.5, 0.5)
    """Like `mean`."""

    def pixels(self, patches: Tensor, weight: Tensor) -> Tensor:
        if patches.dtype == torch.uint8:
            return normalise(patches.to(weight.device), self.mean, self.std, weight.dtype)
        return patches.to(weight)

    def frames(self, table: Tensor, grids: Sequence[Grid], config: MossVLVisionConfig) -> Frames:
        merge, half = config.spatial_merge_size, config.hidden_size // config.num_heads // 2
        joined = same_sizes(grids)
        positions = [learned_positions(table, grid, merge) for grid in joined]
        angles = torch.cat([rotary_angles(grid, merge, half, table.device) for grid in joined])
        return Frames(equal_runs(grids), torch.cat(positions).to(table.dtype), (angles.cos(), angles.sin()))

    def start(self, x: Tensor, frames: Frames) -> Stream:
        return x + frames.positions

    def norm(self, x: Stream, norm: nn.LayerNorm) -> tuple[Stream, Tensor]:
        return x, norm(x)

    def add(self, x: Stream, linear: nn.Module, h: Tensor) -> Stream:
        return x + linear(h)

    def value(self, x: Stream) -> Tensor:
        return x

    def attention(self, qkv: Tensor, frames: Frames) -> Tensor:
        return attend_apart(*self._rotated(qkv, frames), frames)

    def attention_in_parts(self, qkv: Tensor, frames: Frames, queries: int) -> Iterator[Tensor]:
        return attend_in_parts(*self._rotated(qkv, frames), queries, F.scaled_dot_product_attention)

    def _rotated(self, qkv: Tensor, frames: Frames) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unbind(1)
        q, k = (rotate(part.float(), frames.rope).to(part.dtype) for part in (q, k))
        return q, k, v

    def activated(self, linear: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
        return act(linear(x))

    def norms(self, levels: Sequence[Tensor], norms: nn.ModuleList) -> Tensor:
        return torch.cat([norm(level) for norm, level in zip(norms, levels, strict=True)], dim=-1)


PLAIN = PlainOps()


def _attend(q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
    return attend_by_frame(q, k, v, frames.runs, F.scaled_dot_product_attention)


attend_apart: Callable[[Tensor, Tensor, Tensor, Frames], Tensor] = torch.compiler.disable(_attend)
"""PyTorch's attention within frames, never compiled: a block would be compiled for each number of runs."""


def same_sizes(grids: Sequence[Grid]) -> list[Grid]:
    """Merge consecutive media whose frames have the same size into one."""
    runs = groupby(grids, key=lambda grid: grid[1:])
    return [(sum(frames for frames, _, _ in run), *size) for size, run in runs]


def equal_runs(grids: Sequence[Grid]) -> tuple[tuple[int, int], ...]:
    """(frames, patches in each) of consecutive frames with the same number of patches."""
    lengths = [rows * columns for frames, rows, columns in grids for _ in range(frames)]
    return tuple((len(list(run)), patches) for patches, run in groupby(lengths))


def attend_by_frame(
    q: Tensor, k: Tensor, v: Tensor, runs: Sequence[tuple[int, int]], attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """(rows, heads, head_dim) each → the same; `attend` takes (frames, heads, patches, head_dim) of a run."""
    sizes = [frames * patches for frames, patches in runs]
    outputs = []
    for (frames, _), *parts in zip(runs, *(part.split(sizes) for part in (q, k, v)), strict=True):
        batch = (part.unflatten(0, (frames, -1)).transpose(1, 2) for part in parts)
        outputs.append(attend(*batch).transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def attend_in_parts(
    q: Tensor, k: Tensor, v: Tensor, queries: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """As `attend_by_frame` for one frame, `queries` rows of q at a time."""
    keys, values = (part.transpose(0, 1)[None] for part in (k, v))
    for part in q.split(queries):
        yield attend(part.transpose(0, 1)[None], keys, values)[0].transpose(0, 1)


def by_blocks(x: Tensor, merge: int) -> Tensor:
    """(rows, columns, …) → (patches, …) in merge-block order."""
    return x.unflatten(1, (-1, merge)).unflatten(0, (-1, merge)).transpose(1, 2).flatten(0, 3)


def learned_positions(table: Tensor, grid: Grid, merge: int) -> Tensor:
    """Learned positions (side², hidden) → (patches, hidden) float32: bilinear interpolation, corners aligned."""
    frames, rows, columns = grid
    side = int(len(table) ** 0.5)
    square = table.float().T.reshape(1, -1, side, side)
    stretched = F.interpolate(square, (rows, columns), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    return by_blocks(stretched, merge).repeat(frames, 1)


def rotary_angles(grid: Grid, merge: int, half: int, device: torch.device) -> Tensor:
    """(patches, 2 · half) float32: the first half of the frequencies turn with the row, the rest with the column."""
    frames, rows, columns = grid
    inverse = 10000.0 ** -(torch.arange(0, half, 2, device=device).float() / half)
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    angles = by_blocks(torch.stack((y, x), dim=-1), merge).unsqueeze(-1) * inverse
    return angles.flatten(1).repeat(frames, 2)
