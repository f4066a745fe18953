"""Encodes a frame that is too large for one step, in parts."""

from collections.abc import Generator

import torch
from torch import Tensor

from mossvl.device.budget import even_patches
from mossvl.model.vision import VisionBlock, VisionTower
from mossvl.model.vision_ops import VisionOps

GPU_PAIRS, CPU_PAIRS = 1 << 26, 1 << 22
"""(query, key) pairs in a part of attention: they keep the device busy, but not for long."""
ROWS = 4096
"""Patches that the merger takes at a time; on a CPU each linear, too. On a GPU a linear takes all patches."""


class LargeFrame:
    """The encoding of one frame, in progress.

    Args:
        pixels: (patches, features) uint8, on the device.
        grid: patch rows and columns.

    Attributes:
        done: share of the work that is done.
        tokens: the tower's output (tokens, hidden), once all is done.
    """

    def __init__(self, tower: VisionTower, pixels: Tensor, grid: tuple[int, int], ops: VisionOps) -> None:
        self.done = 0.0
        self.tokens: Tensor | None = None
        self._parts = _encode(tower, pixels, grid, ops)

    def advance(self, until: float) -> Tensor | None:
        """Encode up to the share `until` → the tower's output (tokens, hidden) if all is done, else None."""
        while self.tokens is None and (until >= 1 or self.done < until):
            try:
                self.done += next(self._parts)
            except StopIteration as end:
                self.tokens = end.value
        return self.tokens


def _encode(
    tower: VisionTower, pixels: Tensor, grid: tuple[int, int], ops: VisionOps
) -> Generator[float, None, Tensor]:
    """As the tower's `forward` for one frame; yields the share of the work that each part was."""
    patches = len(pixels)
    queries = max(1, (GPU_PAIRS if pixels.is_cuda else CPU_PAIRS) // patches)
    linear = 1 / len(tower.blocks) / (1 + patches / even_patches(tower))
    attention = 1 / len(tower.blocks) - linear
    quarter = linear / 4 / patches  # share of one patch in one of the four linears
    frames = ops.frames(tower.pos_embed.weight, [(1, *grid)], tower.config)
    runs = _runs(patches, patches if pixels.is_cuda else ROWS)
    streams = [
        ops.start(
            tower.patch_embed(ops.pixels(pixels[start:stop], tower.patch_embed.proj.weight)), frames.rows(start, stop)
        )
        for start, stop in runs
    ]
    deepstack = []
    for index, block in enumerate(tower.blocks):
        assert isinstance(block, VisionBlock)
        projected = []
        for number, (start, stop) in enumerate(runs):
            streams[number], normed = ops.norm(streams[number], block.norm1)
            projected.append(block.attn.qkv(normed))
            yield quarter * (stop - start)
        qkv = projected[0] if len(projected) == 1 else torch.cat(projected)
        del projected, normed
        parts = []
        for part in ops.attention_in_parts(qkv.unflatten(-1, (3, block.attn.num_heads, -1)), frames, queries):
            parts.append(part.flatten(-2))
            yield attention * len(part) / patches
        attended = torch.cat(parts)
        for number, (start, stop) in enumerate(runs):
            x = ops.add(streams[number], block.attn.proj, attended[start:stop])
            x, normed = ops.norm(x, block.norm2)
            yield quarter * (stop - start)
            activated = block.mlp(normed, ops)
            yield quarter * (stop - start)
            streams[number] = ops.add(x, block.mlp.linear_fc2, activated)
            yield quarter * (stop - start)
        if index in tower.config.deepstack_visual_indexes:
            deepstack.append([ops.value(x) for x in streams])
    levels = [[ops.value(x) for x in streams], *deepstack]
    whole = [torch.cat(level).split(ROWS) for level in levels]
    return torch.cat([tower.merger(rows, ops) for rows in zip(*whole, strict=True)])


def _runs(patches: int, rows: int) -> list[tuple[int, int]]:
    """Consecutive runs of at most `rows` patches, (start, stop) each."""
    return [(start, min(patches, start + rows)) for start in range(0, patches, rows)]
