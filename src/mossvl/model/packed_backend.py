"""Attention over packed rows with PyTorch's own kernels, sample by sample.

Every sample's attention has its own shape, whatever the rest of the batch: no padding, and no dense mask over vision
tokens, because a text row sees a prefix of its sample's vision sequence, which is one integer.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from mossvl.model.cache import MossVLCache
from mossvl.model.layers import Attention, PlainProducts
from mossvl.model.xrope import Rope, rotate

TILE_ROWS = 64
"""Maximum number of rows of different visibility in one attention call, which bounds the size of its mask."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Grouped-query attention of one sample: q (queries, heads, d), k, v (keys, kv heads, d), mask (queries, keys)."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    return out.squeeze(0).transpose(0, 1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of the last len(q) tokens of a sequence to all len(k) tokens, each up to itself."""
    queries, keys = len(q), len(k)
    if queries == keys:
        return attend(q, k, v, causal=True)
    if queries == 1:
        return attend(q, k, v)
    mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    return attend(q, k, v, mask)


class Visibility:
    """The prefix of a sample's vision tokens that each of its rows sees.

    Args:
        visible: (rows,) int64 on the CPU, number of vision tokens that each row sees; never decreasing.
    """

    def __init__(self, visible: Tensor) -> None:
        self.visible = visible
        counts = visible.tolist()
        self.tiles = [(start, stop, counts[start], counts[stop - 1]) for start, stop in _tiles(counts)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of each row to the vision tokens that it sees; zeros where it sees none.

        Memory is linear in keys, not queries × keys.
        """
        out = torch.zeros_like(q)
        for start, stop, low, high in self.tiles:
            if not high:
                continue
            mask = None
            if low != high:
                limits = self.visible[start:stop, None].to(q.device, non_blocking=True)
                mask = torch.arange(high, device=q.device) < limits
            out[start:stop] = attend(q[start:stop], k[:high], v[:high], mask)
        return out


def _tiles(visible: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut rows into tiles: rows that see nothing, and long runs of equal visibility, alone; short runs merged."""
    start = stop = 0
    for prefix, run in groupby(visible):
        length = len(list(run))
        alone = not prefix or length >= TILE_ROWS
        if start < stop and (alone or stop - start + length > TILE_ROWS):
            yield start, stop
            start = stop
        stop += length
        if alone:
            yield start, stop
            start = stop
    if start < stop:
        yield start, stop


class PackedAttention(PlainProducts):
    """The plain `Backend`: rows of several samples, each sample computed by itself.

    Args:
        lengths: number of text rows of each sample in this call.
        visible: (text rows,) int64 on the CPU, number of its sample's vision tokens that each row sees.
        vision_lengths: number of new vision tokens of each group of media.
        vision_index: for each sample, the index of the group of media that it reads.
        cache: keys and values of earlier calls, which this call extends.
    """

    def __init__(
        self,
        lengths: list[int],
        visible: Tensor,
        vision_lengths: list[int],
        vision_index: list[int],
        cache: MossVLCache | None,
    ) -> None:
        self.lengths = lengths
        self.visible = [Visibility(rows) for rows in visible.split(lengths)]
        self.vision_lengths = vision_lengths
        self.vision_index = vision_index
        self.cache = cache
        self._vision: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> Tensor:
        q, k = rotate(attn.q_norm(q), rope), rotate(attn.k_norm(k), rope)
        keys, values = list(k.split(self.lengths)), list(v.split(self.lengths))
        if self.cache is not None:
            keys, values = self.cache.layers[layer].update(keys, values)
        parts = zip(q.split(self.lengths), keys, values, strict=True)
        return torch.cat([causal_attention(*part) for part in parts]).flatten(-2)

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> None:
        k = rotate(attn.k_norm(k), rope)
        groups = list(zip(k.split(self.vision_lengths), v.split(self.vision_lengths), strict=True))
        keys, values = zip(*(groups[index] for index in self.vision_index), strict=True)
        self._vision[layer] = list(keys), list(values)

    def cross_attention(self, layer: int, q: Tensor, attn: Attention, rope: Rope) -> Tensor:
        q = rotate(attn.q_norm(q), rope)
        keys, values = self._vision.pop(layer, ([], []))
        if self.cache is not None:
            keys, values = self.cache.layers[layer].update(keys, values)
        rows = zip(self.visible, q.split(self.lengths), keys, values, strict=True)
        return torch.cat([visibility.attend(*parts) for visibility, *parts in rows]).flatten(-2)
