"""The vision tower: patches in, one vector for every merge block (2 × 2 patches) out. Frames never see each other.

The modules say what is computed; a `VisionOps` decides how: `PLAIN` (PyTorch; training, any device) unless a caller
passes another one.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.vision_ops import PLAIN, Frames, Stream, VisionOps
from mossvl.processing.pixels import Grid

LAYER_NORM_EPS = 1e-6


def split_frames(grids: Sequence[Grid], chunk: int | None) -> Iterator[list[Grid]]:
    """Cut media into consecutive runs of at most `chunk` frames (all at once if None), in order."""
    run: list[Grid] = []
    room = chunk or sum(frames for frames, _, _ in grids)
    for frames, rows, columns in grids:
        while frames:
            taken = min(frames, room)
            run.append((taken, rows, columns))
            frames, room = frames - taken, room - taken
            if not room:
                yield run
                run, room = [], chunk or 0
    if run:
        yield run


class PatchEmbed(nn.Module):
    """(patches, features) → (patches, hidden): a linear, whose weight has the shape of a convolution over patches."""

    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel_size=kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, frames: Frames, ops: VisionOps) -> Tensor:
        """(patches, hidden) → (patches, hidden), without `proj`, which the block adds to the residual stream."""
        return ops.attention(self.qkv(x).unflatten(-1, (3, self.num_heads, -1)), frames).flatten(-2)


class VisionMLP(nn.Module):
    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor, ops: VisionOps) -> Tensor:
        """(patches, hidden) → (patches, intermediate), without `linear_fc2`, which the block adds."""
        return ops.activated(self.linear_fc1, self.act_fn, x)


class VisionBlock(GradientCheckpointingLayer):
    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Stream, frames: Frames, ops: VisionOps) -> Stream:
        x, normed = ops.norm(x, self.norm1)
        x = ops.add(x, self.attn.proj, self.attn(normed, frames, ops))
        x, normed = ops.norm(x, self.norm2)
        return ops.add(x, self.mlp.linear_fc2, self.mlp(normed, ops))


class Merger(nn.Module):
    """Maps merge blocks, with the last block's output and the deepstack outputs side by side, to vision tokens."""

    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        levels = 1 + len(config.deepstack_visual_indexes)
        self.patches = config.spatial_merge_size**2
        width = config.hidden_size * self.patches * levels
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS) for _ in range(levels))
        self.linear_fc1 = nn.Linear(width, width)
        self.linear_fc2 = nn.Linear(width, config.out_hidden_size)

    def forward(self, levels: Sequence[Tensor], ops: VisionOps) -> Tensor:
        """Tensors of (patches, hidden), the last block's first → (patches / merge², out_hidden)."""
        x = ops.norms(levels, self.norms)
        return self.linear_fc2(F.gelu(self.linear_fc1(x.view(-1, self.patches * x.shape[-1]))))


class VisionTower(nn.Module):
    """The vision tower.

    Attributes:
        frozen_ops: if given, the operations of all but the merger, without gradients and in the weights' dtype.
    """

    frozen_ops: VisionOps | None = None

    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config)

    def forward(
        self, pixel_values: Tensor, grids: Sequence[Grid], chunk: int | None = None, ops: VisionOps = PLAIN
    ) -> Tensor:
        """Encode media.

        Args:
            pixel_values: (patches, channels · temporal_patch · patch²), frame after frame, in each frame by merge
                blocks (block row, block column, row in block, column in block). uint8 values are pixels,
                which `ops` normalises; other dtypes must be normalised.
            grids: frames, patch rows and patch columns of each medium.
            chunk: frames encoded at a time (all if None); bounds the memory, changes no result.
            ops: the operations of the modules.

        Returns:
            (patches / merge², out_hidden).
        """
        runs = list(split_frames(grids, chunk))
        sizes = [sum(frames * rows * columns for frames, rows, columns in run) for run in runs]
        encoded = [self._encode(part, run, ops) for part, run in zip(pixel_values.split(sizes), runs, strict=True)]
        return encoded[0] if len(encoded) == 1 else torch.cat(encoded)

    def _encode(self, pixel_values: Tensor, grids: Sequence[Grid], ops: VisionOps) -> Tensor:
        if self.frozen_ops is None:
            return self.merger(self._levels(pixel_values, grids, ops), ops)
        with torch.no_grad(), torch.autocast(self.pos_embed.weight.device.type, enabled=False):
            levels = self._levels(pixel_values, grids, self.frozen_ops)
        return self.merger(levels, ops)

    def _levels(self, pixel_values: Tensor, grids: Sequence[Grid], ops: VisionOps) -> list[Tensor]:
        """The levels that the merger reads."""
        frames = ops.frames(self.pos_embed.weight, grids, self.config)
        patches = ops.pixels(pixel_values, self.patch_embed.proj.weight)
        x = ops.start(self.patch_embed(patches), frames)
        deepstack = []
        for index, block in enumerate(self.blocks):
            x = block(x, frames, ops)
            if index in self.config.deepstack_visual_indexes:
                deepstack.append(ops.value(x))
        return [ops.value(x), *deepstack]
