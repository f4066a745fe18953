"""The backend for GPUs: fused products, and attention over pages by Triton kernels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mossvl.device.fused_products import Fuse, FusedProducts, FusedWeights, LowRankRows
from mossvl.device.fusing import joined
from mossvl.device.inputs import RequestRows, TextRows, to_device
from mossvl.device.pool import PagePool
from mossvl.device.quantized import QuantizedWeight
from mossvl.device.tables import Tables
from mossvl.kernels.linear import linear, linear_residual, norm_linear, norm_swiglu
from mossvl.kernels.paged import (
    TILE_ROWS,
    NewToken,
    choose_splits,
    decode_attention,
    prefill_attention,
    rotate_queries,
    store,
    store_keys_values,
)
from mossvl.model.layers import Attention, RMSNorm
from mossvl.model.xrope import Rope
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.nf4 import Nf4Linear


class DenseWeight:
    """The `FusedWeight` of plain linears: (sum of out features, in features)."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    @classmethod
    def of(cls, linears: Sequence[nn.Module]) -> "DenseWeight | None":
        """None if a linear has a bias, or if the weights do not lie side by side."""
        found = joined(linears)
        return None if found is None else cls(found[0])

    def project(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        return linear(x, self._weight) if norm is None else norm_linear(x, norm.weight, norm.eps, self._weight)

    def swiglu(self, x: Tensor, norm: RMSNorm, added: Tensor | None = None) -> Tensor:
        return norm_swiglu(x, norm.weight, norm.eps, self._weight, added)

    def add(self, residual: Tensor, x: Tensor, gate: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
        return linear_residual(x, self._weight, residual, gate, sees)


KINDS: Mapping[type[nn.Module], Fuse] = {
    nn.Linear: DenseWeight.of,
    Fp8Linear: QuantizedWeight.of_fp8,
    Int4Linear: QuantizedWeight.of_int4,
    Nf4Linear: QuantizedWeight.of_nf4,
}
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
        starts: (rows,) int32 place of the first of them in a slot's vision pages, the same in all rows of a tile.
        prefill: the prefill rows; None if all rows decode.
        adapted: the rows' adapters; None if no row has one.
    """

    def __init__(
        self,
        pool: PagePool,
        tables: Tables,
        weights: FusedWeights,
        slots: Tensor,
        lengths: Tensor,
        visible: Tensor,
        starts: Tensor,
        prefill: PrefillTiles | None,
        adapted: LowRankRows | None = None,
    ) -> None:
        super().__init__(weights, adapted)
        self.pool, self.tables = pool, tables
        self.lengths, self.visible, self.starts, self.prefill = lengths, visible, starts, prefill
        self._slots = slots.int()
        self._count = 0 if prefill is None else prefill.rows
        if self._count:
            slots = slots[: self._count]
            last = (lengths[: self._count].long() - 1).clamp(min=0)
            pages = tables.text[slots, :, last // pool.page_size].T.long()
            # (groups, prefill rows) KV slots; -1 stores nothing.
            stored = lengths[: self._count] > 0
            self.text_slots = torch.where(stored, pages * pool.page_size + last % pool.page_size, -1).contiguous()

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> Tensor:
        pages = self.pool.layer(layer)
        group, count = self.pool.place[layer][1], self._count
        tables, parts = self.tables.text[:, group], []
        if self.prefill is not None:
            part = slice(count)
            norms = attn.q_norm.weight, attn.k_norm.weight, attn.q_norm.eps
            where = pages.keys, pages.values, self.text_slots[group]
            rows = store(q[part], k[part], v[part], *norms, *sliced(rope, part), *where, *pages.scales)
            parts.append(self._prefill(rows, layer, tables, self.lengths, self.prefill.text_splits))
        if count < len(q):
            new = NewToken(k[count:], v[count:], attn.k_norm.weight)
            parts.append(self._decode(q, layer, tables, self.lengths, attn, rope, new))
        return joined_rows(parts)

    def cross_attention(self, layer: int, q: Tensor, attn: Attention, rope: Rope) -> Tensor:
        tables, count, parts = self.tables.vision, self._count, []
        if self.prefill is not None:
            part = slice(count)
            rows = rotate_queries(q[part], attn.q_norm.weight, attn.q_norm.eps, *sliced(rope, part))
            parts.append(self._prefill(rows, layer, tables, self.visible, self.prefill.vision_splits, self.starts))
        if count < len(q):
            parts.append(self._decode(q, layer, tables, self.visible, attn, rope, starts=self.starts))
        return joined_rows(parts)

    def _prefill(
        self, q: Tensor, layer: int, tables: Tensor, seen: Tensor, splits: int, starts: Tensor | None = None
    ) -> Tensor:
        assert self.prefill is not None
        keys, values, key_scale, value_scales = self.pool.layer(layer)
        rows = self.prefill.tiles, seen[: len(q)]
        scale = q.shape[-1] ** -0.5 * key_scale
        return prefill_attention(q, keys, values, tables, *rows, scale, splits, value_scales, starts)

    def _decode(
        self,
        q: Tensor,
        layer: int,
        tables: Tensor,
        seen: Tensor,
        attn: Attention,
        rope: Rope,
        new: NewToken | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Attention of the rows after those of prefill."""
        part, pages = slice(self._count, None), self.pool.layer(layer)
        starts = None if starts is None else starts[part]
        return decode_attention(
            q[part], attn.q_norm.weight, attn.q_norm.eps, *sliced(rope, part), pages.keys, pages.values, tables,
            self._slots[part], seen[part], q.shape[-1] ** -0.5, self.tables.arrivals, new, *pages.scales, starts,
        )  # fmt: skip


def sliced(rope: Rope, rows: slice) -> Rope:
    return rope[0][rows], rope[1][rows]


def joined_rows(parts: list[Tensor]) -> Tensor:
    """(rows, heads · d) of parts (rows, heads, d)."""
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(-2)


class VisionWriter(FusedProducts):
    """The `VisionBackend` over pages: writes keys and values to KV slots (vision rows,) int64."""

    def __init__(
        self, pool: PagePool, weights: FusedWeights, slots: Tensor, adapted: LowRankRows | None = None
    ) -> None:
        super().__init__(weights, adapted)
        self.pool, self.slots = pool, slots

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> None:
        pages = self.pool.layer(layer)
        norm = attn.k_norm.weight, attn.k_norm.eps
        store_keys_values(k, v, *norm, *rope, pages.keys, pages.values, self.slots, *pages.scales)


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
    heads = pool.layer(0).keys.shape[1]
    longest, most = int(rows.lengths[:count].max()), int(rows.visible[:count].max())
    splits = (choose_splits(len(tiles), heads, max(one, 1)) for one in (longest, most))
    return PrefillTiles(to_device(tiles, device), count, *splits)


def warm_up_prefill(pool: PagePool, tables: Tables, heads: int, dtype: torch.dtype) -> None:
    """Compile prefill attention for every kind of pages and every number of splits that may be chosen."""
    device = tables.vision.device
    q = torch.zeros((TILE_ROWS, heads, pool.layer(0).keys.shape[3]), dtype=dtype, device=device)
    tiles = torch.tensor([[len(tables.vision) - 1, 0, TILE_ROWS]], dtype=torch.int32, device=device)
    seen = torch.zeros(TILE_ROWS, dtype=torch.int32, device=device)
    for pages in pool.kinds():
        for splits in (1, 2, 4, 8, 16, 32):
            where = pages.keys, pages.values, tables.vision
            for starts in (None, seen):
                prefill_attention(q, *where, tiles, seen, 1.0, splits, pages.value_scales, starts)
