"""A frame that is too large for one step is encoded in parts, a few a step."""

from collections.abc import Generator

import torch
from torch import Tensor

from mossvl.device.budget import even_patches
from mossvl.model.vision import VisionBlock, VisionTower
from mossvl.model.vision_ops import VisionOps

GPU_PAIRS, CPU_PAIRS = 1 << 26, 1 << 24
"""Pairs of patches of which a part of an attention consists: they keep the device busy, and not for long."""
ROWS = 4096
"""Patches that are merged in a part."""


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
    frames = ops.frames(tower.pos_embed.weight, [(1, *grid)], tower.config)
    x = ops.start(tower.patch_embed(ops.pixels(pixels, tower.patch_embed.proj.weight)), frames)
    deepstack = []
    for index, block in enumerate(tower.blocks):
        assert isinstance(block, VisionBlock)
        x, normed = ops.norm(x, block.norm1)
        qkv = block.attn.qkv(normed).unflatten(-1, (3, block.attn.num_heads, -1))
        yield linear / 4
        attended = []
        for part in ops.attention_in_parts(qkv, frames, queries):
            attended.append(part.flatten(-2))
            yield attention * len(part) / patches
        x = ops.add(x, block.attn.proj, torch.cat(attended))
        x, normed = ops.norm(x, block.norm2)
        yield linear / 4
        activated = block.mlp(normed, ops)
        yield linear / 4
        x = ops.add(x, block.mlp.linear_fc2, activated)
        if index in tower.config.deepstack_visual_indexes:
            deepstack.append(ops.value(x))
        yield linear / 4
    levels = [level.split(ROWS) for level in (ops.value(x), *deepstack)]
    return torch.cat([tower.merger(rows, ops) for rows in zip(*levels, strict=True)])
