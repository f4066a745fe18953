"""The backend for GPUs: fused products, and attention over pages by Triton kernels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mossvl.device.fused_products import Fuse, FusedProducts, FusedWeights
from mossvl.device.fusing import joined
from mossvl.device.inputs import RequestRows, TextRows, to_device
from mossvl.device.pool import PagePool
from mossvl.device.tables import Tables
from mossvl.kernels.linear import linear, linear_residual, norm_linear, norm_swiglu
from mossvl.kernels.paged import (
    TILE_ROWS,
    choose_splits,
    decode_attention,
    prefill_attention,
    rotate_queries,
    store,
    store_keys_values,
)
from mossvl.model.layers import Attention, RMSNorm
from mossvl.model.xrope import Rope


class DenseWeight:
    """The `FusedWeight` of plain linears: (sum of out features, in features)."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    @classmethod
    def of(cls, linears: Sequence[nn.Module]) -> "DenseWeight | None":
        """None if a linear has a bias, or if the weights do not lie side by side."""
        weight = joined(linears)
        return None if weight is None else cls(weight)

    def project(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        return linear(x, self._weight) if norm is None else norm_linear(x, norm.weight, norm.eps, self._weight)

    def swiglu(self, x: Tensor, norm: RMSNorm) -> Tensor:
        return norm_swiglu(x, norm.weight, norm.eps, self._weight)

    def add(self, residual: Tensor, x: Tensor, gate: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
        return linear_residual(x, self._weight, residual, gate, sees)


KINDS: Mapping[type[nn.Module], Fuse] = {nn.Linear: DenseWeight.of}
"""How linears are fused, by their class."""


@dataclass(frozen=True)
class PrefillTiles:
    """The prefill rows of a step, which come first, in tiles.

    Attributes:
        tiles: (tiles, 3) int32: batch slot, first row, number of rows.
        rows: number of prefill rows.
        text_splits, vision_splits: number of splits of the text tokens, and of the vision tokens, that a tile sees.
    """

    tiles: Tensor
    rows: int
    text_splits: int
    vision_splits: int


class FastAttention(FusedProducts):
    """The `TextBackend` over pages: prefill rows first, then decode rows.

    Args:
        slots: (rows,) int64 batch slots.
        lengths: (rows,) int32 number of text tokens seen, the row itself included; 0 for padding rows.
        visible: (rows,) int32 number of vision tokens seen.
        prefill: the prefill rows; None if all rows decode.
    """

    def __init__(
        self,
        pool: PagePool,
        tables: Tables,
        weights: FusedWeights,
        slots: Tensor,
        lengths: Tensor,
        visible: Tensor,
        prefill: PrefillTiles | None,
    ) -> None:
        super().__init__(weights)
        self.pool, self.tables = pool, tables
        self.lengths, self.visible, self.prefill = lengths, visible, prefill
        self._slots = slots.int()
        last = (lengths.long() - 1).clamp(min=0)
        pages = tables.text[slots, :, last // pool.page_size].T.long()
        # (groups, rows) KV slots; -1 stores nothing.
        self.text_slots = torch.where(lengths > 0, pages * pool.page_size + last % pool.page_size, -1).contiguous()

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> Tensor:
        keys, values = self.pool.layer(layer)
        group = self.pool.place[layer][1]
        norms = attn.q_norm.weight, attn.k_norm.weight, attn.q_norm.eps
        q = store(q, k, v, *norms, *rope, keys, values, self.text_slots[group])
        splits = 1 if self.prefill is None else self.prefill.text_splits
        return self._attend(q, keys, values, self.tables.text[:, group], self.lengths, splits)

    def cross_attention(self, layer: int, q: Tensor, attn: Attention, rope: Rope) -> Tensor:
        keys, values = self.pool.layer(layer)
        q = rotate_queries(q, attn.q_norm.weight, attn.q_norm.eps, *rope)
        splits = 1 if self.prefill is None else self.prefill.vision_splits
        return self._attend(q, keys, values, self.tables.vision, self.visible, splits)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, seen: Tensor, splits: int) -> Tensor:
        scale = q.shape[-1] ** -0.5
        count = 0 if self.prefill is None else self.prefill.rows
        parts = []
        if self.prefill is not None:
            tiles = self.prefill.tiles
            parts.append(prefill_attention(q[:count], keys, values, tables, tiles, seen[:count], scale, splits))
        if count < len(q):
            slots = self._slots[count:]
            parts.append(decode_attention(q[count:], keys, values, tables, slots, seen[count:], scale))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(-2)


class VisionWriter(FusedProducts):
    """The `VisionBackend` over pages: writes keys and values to KV slots (vision rows,) int64."""

    def __init__(self, pool: PagePool, weights: FusedWeights, slots: Tensor) -> None:
        super().__init__(weights)
        self.pool, self.slots = pool, slots

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> None:
        keys, values = self.pool.layer(layer)
        store_keys_values(k, v, attn.k_norm.weight, attn.k_norm.eps, *rope, keys, values, self.slots)


def prefill_tiles(sequences: Sequence[RequestRows]) -> NDArray[np.int32]:
    """Cut the rows of requests into tiles: (tiles, 3) int32, batch slot, first row, number of rows."""
    tiles = []
    for one in sequences:
        ends = one.start + one.rows
        tiles += [(one.slot, first, min(TILE_ROWS, ends - first)) for first in range(one.start, ends, TILE_ROWS)]
    return np.array(tiles, dtype=np.int32)


def in_tiles(pool: PagePool, rows: TextRows, device: torch.device) -> PrefillTiles | None:
    """The prefill rows of a step; None if it has none."""
    count = rows.num_prefill
    if not count:
        return None
    tiles = prefill_tiles([one for one in rows.sequences if one.start < count])
    heads = pool.layer(0)[0].shape[1]
    longest, most = int(rows.lengths[:count].max()), int(rows.visible[:count].max())
    splits = (choose_splits(len(tiles), heads, max(one, 1)) for one in (longest, most))
    return PrefillTiles(to_device(tiles, device), count, *splits)


def warm_up_prefill(pool: PagePool, tables: Tables, heads: int) -> None:
    """Compile prefill attention for every number of splits that may be chosen."""
    keys, values = pool.layer(0)
    device = keys.device
    q = torch.zeros((TILE_ROWS, heads, keys.shape[3]), dtype=keys.dtype, device=device)
    tiles = torch.tensor([[len(tables.vision) - 1, 0, TILE_ROWS]], dtype=torch.int32, device=device)
    seen = torch.zeros(TILE_ROWS, dtype=torch.int32, device=device)
    for splits in (1, 2, 4, 8, 16, 32):
        prefill_attention(q, keys, values, tables.vision, tiles, seen, 1.0, splits)
