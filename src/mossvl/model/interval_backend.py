"""Attention over packed rows in one call for all samples: each row attends to an interval of the keys.

In self-attention, the interval is the sample's rows up to the row itself; in cross-attention, the visible prefix of the
sample's vision tokens. From these intervals, two integers a row, PyTorch's FlexAttention makes kernels, forward and
backward, that skip blocks which no row attends to. Memory is linear in rows and keys.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from mossvl.model.adapters import AdaptedProducts
from mossvl.model.cache import MossVLCache
from mossvl.model.layers import Attention, Backend
from mossvl.model.packed_backend import PackedAttention
from mossvl.model.packed_batch import PackedBatch
from mossvl.model.xrope import Rope, rotate

BLOCK = 128
"""Rows, and keys, of a block of the mask."""


def backend_for(packed: PackedBatch, cache: MossVLCache | None, device: torch.device) -> Backend:
    """The backend of a call: for all samples at once, or, with a cache or without a GPU, for each sample by itself."""
    if cache is None and device.type == "cuda":
        return IntervalAttention(packed, device)
    return PackedAttention(packed.lengths, packed.visible, packed.vision_lengths, packed.reads, cache)


@dataclass(frozen=True)
class Intervals:
    """The keys [low, high) that each row attends to.

    Attributes:
        low, high: (rows,) int32.
        keys: number of all keys.
    """

    low: Tensor
    high: Tensor
    keys: int

    def block_mask(self) -> BlockMask:
        """The mask for FlexAttention: the blocks of keys that each block of rows attends to in full, and in part."""
        low, high = self.low, self.high
        rows = len(low)
        missing = -rows % BLOCK

        def blocks(values: Tensor, filled: int) -> Tensor:
            """(row blocks, BLOCK); padding rows of the last block get `filled`, which changes no minimum or maximum."""
            return torch.nn.functional.pad(values, (0, missing), value=filled).view(-1, BLOCK)

        first, last = blocks(low, self.keys).amin(1), blocks(high, 0).amax(1)
        first_whole, last_whole = blocks(low, 0).amax(1), blocks(high, self.keys).amin(1)
        begin = torch.arange(0, max(self.keys, 1), BLOCK, device=low.device)
        read = (begin + BLOCK > first[:, None]) & (begin < last[:, None])
        whole = (begin >= first_whole[:, None]) & (begin + BLOCK <= last_whole[:, None])

        def attends(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
            return (key >= low[row]) & (key < high[row])

        return BlockMask.from_kv_blocks(
            *_listed(read & ~whole),
            *_listed(read & whole),
            BLOCK_SIZE=BLOCK,
            mask_mod=attends,
            seq_lengths=(rows, self.keys),
        )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(row blocks, key blocks) bool → for each row, the number of chosen blocks, and all indices, chosen ones first."""
    order = torch.argsort(chosen.int(), dim=1, descending=True, stable=True)
    return chosen.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]


@functools.cache
def _attention(compiled: bool) -> Callable[..., Tensor]:
    """FlexAttention; uncompiled, it is a reference without gradients."""
    attention: Callable[..., Any] = flex_attention
    return torch.compile(attention, dynamic=True) if compiled else attention


class IntervalAttention(AdaptedProducts):
    """A `Backend` for training: rows of all samples at once, without a cache."""

    def __init__(self, packed: PackedBatch, device: torch.device) -> None:
        text_low, text_high, vision_low, vision_high = packed.attends.to(device, non_blocking=True)
        tokens = packed.vision_positions.shape[1]
        self.text = Intervals(text_low, text_high, len(text_low)).block_mask()
        self.vision = Intervals(vision_low, vision_high, tokens).block_mask() if tokens else None
        self.attend = _attention(device.type == "cuda")
        self._vision: tuple[Tensor, Tensor] | None = None
        """Vision keys and values of the layer that is being computed."""

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> Tensor:
        return self._attend(rotate(attn.q_norm(q), rope), rotate(attn.k_norm(k), rope), v, self.text)

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> None:
        self._vision = rotate(attn.k_norm(k), rope), v

    def cross_attention(self, layer: int, q: Tensor, attn: Attention, rope: Rope) -> Tensor:
        assert self._vision is not None
        (k, v), self._vision = self._vision, None
        return self._attend(rotate(attn.q_norm(q), rope), k, v, self.vision)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: BlockMask | None) -> Tensor:
        """(rows, heads, d) each → (rows, heads · d). Under autocast, only v has the lower precision."""
        q, k, v = (x.to(v.dtype).transpose(0, 1)[None] for x in (q, k, v))
        out: Tensor = self.attend(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return out[0].transpose(0, 1).flatten(-2)
