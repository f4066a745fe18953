"""Attention over pages with PyTorch's own kernels, request by request: on any device, without a compiler."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mossvl.adapters.rows import AdaptedRows
from mossvl.device.inputs import TextRows
from mossvl.device.pool import PagePool
from mossvl.device.tables import Tables
from mossvl.model.layers import Attention, PlainProducts
from mossvl.model.packed_backend import Visibility, causal_attention
from mossvl.model.xrope import Rope, rotate
from mossvl.quantization.fp8 import LARGEST

TINY = 1e-30
"""Least scale of values in FP8, for values that are all zero."""


class PagedAttention(PlainProducts):
    """A `Backend` whose keys and values are in pages.

    Args:
        rows: the step's text rows; None to store vision tokens.
        vision_slots: (vision rows,) int64 KV slots of the vision tokens to store.
        adapted: adds what the rows' adapters do; None if no row has one.
    """

    def __init__(
        self,
        pool: PagePool,
        tables: Tables,
        rows: TextRows | None = None,
        vision_slots: Tensor | None = None,
        adapted: AdaptedRows | None = None,
    ) -> None:
        self.pool, self.tables, self.rows, self.vision_slots = pool, tables, rows, vision_slots
        self.adapted = adapted
        if rows is not None:
            size = pool.page_size
            blocks = torch.from_numpy((rows.lengths - 1) // size).long().to(tables.text.device)
            offsets = torch.from_numpy((rows.lengths - 1) % size).to(tables.text.device)
            slots = torch.from_numpy(rows.slots).to(tables.text.device)
            self._text_slots = [
                tables.text[slots, group, blocks].long() * size + offsets for group in range(pool.groups)
            ]
            visible = torch.from_numpy(rows.visible).long()
            self._visibility = [Visibility(visible[one.start : one.start + one.rows]) for one in rows.sequences]

    def linears(self, x: Tensor, linears: Sequence[nn.Module]) -> list[Tensor]:
        results = super().linears(x, linears)
        if self.adapted is not None:
            for y, linear in zip(results, linears, strict=True):
                self.adapted.add(y, x, linear)
        return results

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> Tensor:
        assert self.rows is not None
        q, k = rotate(attn.q_norm(q), rope), rotate(attn.k_norm(k), rope)
        group = self.pool.place[layer][1]
        self._store(layer, k, v, self._text_slots[group])
        outputs = []
        for one in self.rows.sequences:
            keys, values = self._gather(layer, self.tables.text[one.slot, group], one.length, q.dtype)
            outputs.append(causal_attention(q[one.start : one.start + one.rows], keys, values))
        return torch.cat(outputs).flatten(-2)

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> None:
        assert self.vision_slots is not None
        self._store(layer, rotate(attn.k_norm(k), rope), v, self.vision_slots)

    def cross_attention(self, layer: int, q: Tensor, attn: Attention, rope: Rope) -> Tensor:
        assert self.rows is not None
        q = rotate(attn.q_norm(q), rope)
        outputs = []
        for one, visibility in zip(self.rows.sequences, self._visibility, strict=True):
            keys, values = self._gather(
                layer, self.tables.vision[one.slot], one.vision_start + one.num_vision, q.dtype, one.vision_start
            )
            outputs.append(visibility.attend(q[one.start : one.start + one.rows], keys, values))
        return torch.cat(outputs).flatten(-2)

    def _store(self, layer: int, k: Tensor, v: Tensor, slots: Tensor) -> None:
        keys, values, key_scale, value_scales = self.pool.layer(layer)
        slots = slots.to(keys.device)
        pages, offsets = slots // keys.shape[2], slots % keys.shape[2]
        if value_scales is not None:
            scales = (v.abs().amax(-1).float() / LARGEST).clamp(min=TINY).to(value_scales.dtype)
            value_scales[pages, :, offsets] = scales
            k, v = k.float() / key_scale, v.float() / scales[..., None].float()
            k, v = k.clamp(-LARGEST, LARGEST), v.clamp(-LARGEST, LARGEST)
        keys[pages, :, offsets], values[pages, :, offsets] = k.to(keys.dtype), v.to(values.dtype)

    def _gather(
        self, layer: int, table: Tensor, stop: int, dtype: torch.dtype, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The keys and values [start, stop) of a sequence, (stop - start, kv heads, head_dim) each."""
        keys, values, key_scale, value_scales = self.pool.layer(layer)
        pages = table[: -(-stop // keys.shape[2])].long().to(keys.device)
        if value_scales is None:
            parts = keys[pages], values[pages]
        else:
            scales = value_scales[pages].float()[..., None]
            parts = (keys[pages].float() * key_scale).to(dtype), (values[pages].float() * scales).to(dtype)
        return tuple(part.transpose(1, 2).flatten(0, 1)[start:stop] for part in parts)  # type: ignore[return-value]
