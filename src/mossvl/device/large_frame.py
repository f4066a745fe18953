"""A frame that is too large for one step is encoded in parts, a few a step."""

from collections.abc import Generator

import torch
from torch import Tensor

from mossvl.device.budget import even_patches
from mossvl.model.vision import VisionBlock, VisionTower
from mossvl.model.vision_ops import VisionOps

GPU_PAIRS, CPU_PAIRS = 1 << 26, 1 << 22
"""Pairs of patches of which a part of an attention consists: they keep the device busy, and not for long."""
ROWS = 4096
"""Patches that are merged at a time, and on a CPU those that a linear takes in a part; on a GPU it takes all."""


class LargeFrame:
    """A frame, as far as it is encoded.

    Args:
        pixels: (patches, features) uint8, on the device.
        grid: patch rows and columns.
    """

    def __init__(self, tower: VisionTower, pixels: Tensor, grid: tuple[int, int], ops: VisionOps) -> None:
        self.done = 0.0
        self.tokens: Tensor | None = None
        self._parts = _encode(tower, pixels, grid, ops)

    def advance(self, until: float) -> Tensor | None:
        """Go on until this much of all is done → what the tower gives of the frame (tokens, hidden), once that is 1."""
        while self.tokens is None and (until >= 1 or self.done < until):
            try:
                self.done += next(self._parts)
            except StopIteration as end:
                self.tokens = end.value
        return self.tokens


def _encode(
    tower: VisionTower, pixels: Tensor, grid: tuple[int, int], ops: VisionOps
) -> Generator[float, None, Tensor]:
    """As the tower's `forward`; yields how much of all a part was."""
    patches = len(pixels)
    queries = max(1, (GPU_PAIRS if pixels.is_cuda else CPU_PAIRS) // patches)
    linear = 1 / len(tower.blocks) / (1 + patches / even_patches(tower))
    attention = 1 / len(tower.blocks) - linear
    quarter = linear / 4 / patches  # of a patch, for each of the four linears
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
        made = []
        for number, (start, stop) in enumerate(runs):
            streams[number], normed = ops.norm(streams[number], block.norm1)
            made.append(block.attn.qkv(normed))
            yield quarter * (stop - start)
        qkv = made[0] if len(made) == 1 else torch.cat(made)
        del made, normed
        attended = []
        for part in ops.attention_in_parts(qkv.unflatten(-1, (3, block.attn.num_heads, -1)), frames, queries):
            attended.append(part.flatten(-2))
            yield attention * len(part) / patches
        heard = torch.cat(attended)
        for number, (start, stop) in enumerate(runs):
            x = ops.add(streams[number], block.attn.proj, heard[start:stop])
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
    """(start, end) of consecutive runs of patches, so many each."""
    return [(start, min(patches, start + rows)) for start in range(0, patches, rows)]
