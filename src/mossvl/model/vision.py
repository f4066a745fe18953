"""The vision tower: patches in, one vector for every 2 × 2 block of patches out. Frames never see each other."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.xrope import Rope, rotate

Grid = tuple[int, int, int]
"""(frames, patch rows, patch columns) of one image or video."""

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
    """One linear map per patch; stored with the shape of the convolution that it is."""

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

    def forward(self, x: Tensor, rope: Rope, runs: Sequence[tuple[int, int]]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        q, k = (rotate(part.float(), rope).to(x.dtype) for part in (q, k))
        sizes = [frames * patches for frames, patches in runs]
        outputs = []
        for (frames, _), *parts in zip(runs, *(part.split(sizes) for part in (q, k, v)), strict=True):
            batch = (part.unflatten(0, (frames, -1)).transpose(1, 2) for part in parts)
            outputs.append(F.scaled_dot_product_attention(*batch).transpose(1, 2).flatten(0, 1))
        return self.proj(torch.cat(outputs).flatten(-2))


class VisionMLP(nn.Module):
    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(self.act_fn(self.linear_fc1(x)))


class VisionBlock(GradientCheckpointingLayer):
    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, rope: Rope, runs: Sequence[tuple[int, int]]) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, runs)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """The last block's output and the deepstack outputs, side by side, four patches to one language-model vector."""

    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        levels = 1 + len(config.deepstack_visual_indexes)
        self.patches = config.spatial_merge_size**2
        width = config.hidden_size * self.patches * levels
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS) for _ in range(levels))
        self.linear_fc1 = nn.Linear(width, width)
        self.linear_fc2 = nn.Linear(width, config.out_hidden_size)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Tensors of (patches, hidden), the last block's first → (patches / 4, out_hidden)."""
        x = torch.cat([norm(level) for norm, level in zip(self.norms, levels, strict=True)], dim=-1)
        return self.linear_fc2(F.gelu(self.linear_fc1(x.view(-1, self.patches * x.shape[-1]))))


class VisionTower(nn.Module):
    def __init__(self, config: MossVLVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config)

    def forward(self, pixel_values: Tensor, grids: Sequence[Grid], chunk: int | None = None) -> Tensor:
        """Encode media.

        Args:
            pixel_values: (patches, channels · temporal_patch · patch²), normalised; frame after frame, in each frame by
                merge blocks (block row, block column, row in block, column in block).
            grids: frames, patch rows and patch columns of each medium.
            chunk: how many frames to encode at a time; bounds the memory, changes no result.

        Returns:
            (patches / merge², out_hidden).
        """
        runs = list(split_frames(grids, chunk))
        sizes = [sum(frames * rows * columns for frames, rows, columns in run) for run in runs]
        encoded = [self._encode(part, run) for part, run in zip(pixel_values.split(sizes), runs, strict=True)]
        return torch.cat(encoded)

    def _encode(self, pixel_values: Tensor, grids: Sequence[Grid]) -> Tensor:
        weight = self.patch_embed.proj.weight
        x = self.patch_embed(pixel_values.to(weight)) + self._learned_positions(grids)
        rope = self._rope(grids, x.device)
        frames = [rows * columns for frames, rows, columns in grids for _ in range(frames)]
        runs = [(len(list(run)), patches) for patches, run in groupby(frames)]
        deepstack = []
        for index, block in enumerate(self.blocks):
            x = block(x, rope, runs)
            if index in self.config.deepstack_visual_indexes:
                deepstack.append(x)
        return self.merger([x, *deepstack])

    def _by_blocks(self, x: Tensor) -> Tensor:
        """(rows, columns, …) → (patches, …) in merge-block order."""
        merge = self.config.spatial_merge_size
        blocks = x.unflatten(1, (-1, merge)).unflatten(0, (-1, merge)).transpose(1, 2)
        return blocks.flatten(0, 3)

    def _learned_positions(self, grids: Sequence[Grid]) -> Tensor:
        """The square table of learned positions, stretched to each grid: bilinear, corners aligned."""
        side = int(self.config.num_position_embeddings**0.5)
        table = self.pos_embed.weight.float().T.reshape(1, -1, side, side)
        parts = []
        for frames, rows, columns in grids:
            grid = F.interpolate(table, (rows, columns), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
            parts.append(self._by_blocks(grid).repeat(frames, 1))
        return torch.cat(parts).to(self.pos_embed.weight.dtype)

    def _rope(self, grids: Sequence[Grid], device: torch.device) -> Rope:
        """float32 cos and sin, (patches, head_dim): the first half of the frequencies turn with the row, the rest with
        the column."""
        half = self.config.hidden_size // self.config.num_heads // 2
        inverse = 10000.0 ** -(torch.arange(0, half, 2, device=device).float() / half)
        parts = []
        for frames, rows, columns in grids:
            y, x = torch.meshgrid(
                torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
            )
            angles = self._by_blocks(torch.stack((y, x), dim=-1)).unsqueeze(-1) * inverse
            parts.append(angles.flatten(1).repeat(frames, 2))
        angles = torch.cat(parts)
        return angles.cos(), angles.sin()
