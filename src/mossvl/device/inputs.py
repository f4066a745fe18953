"""A step as arrays: its rows' tokens and positions, what they see, and where their keys and values are stored.

A batch slot is a request's row in the page tables (`Request.slot`); a KV slot is a token's place in the pages:
page · page size + its offset in the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mossvl.scheduling.pages import NO_ADAPTER
from mossvl.scheduling.request import Request
from mossvl.scheduling.step import FrameSpan, RowSpan

PACKED = 8
"""Number of arrays in `TextRows.packed`."""


@dataclass(frozen=True)
class RequestRows:
    """The rows of one request in a step: rows [start, start + rows) are its last text tokens up to `length`.

    Attributes:
        slot: its batch slot.
        length: its text tokens, these rows included.
        num_vision: vision tokens of all its frames but those that have left.
        vision_start: place of the first of these in its vision pages.
    """

    start: int
    rows: int
    slot: int
    length: int
    num_vision: int
    vision_start: int = 0

    @classmethod
    def of(cls, request: Request[object], first: int, rows: range, vision_size: int) -> "RequestRows":
        """The rows of a request in a step, whose batch has them from row `first` on; all see the same first frame."""
        unseen = request.context.unseen(rows.start)
        seen, start = request.context.num_vision - unseen, unseen - request.freed * vision_size
        return cls(first, len(rows), request.slot, rows.stop, seen, start)


def to_device(array: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """The array as a tensor on the device; the copy to a GPU is asynchronous."""
    host = array if isinstance(array, Tensor) else torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@dataclass(frozen=True)
class ScoredRows:
    """Prefill rows whose next token is known, and gets a log-probability.

    Attributes:
        rows: (n,) int64 rows of the batch.
        targets: (n,) int64 id of the token after each.
        most: number of the likeliest tokens to be told beside it, 1 at least.
    """

    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    most: int

    @classmethod
    def build(cls, prefill: Sequence[RowSpan[object]]) -> "ScoredRows | None":
        """The scored rows of a step, in the order of its prefill; None if there are none."""
        rows: list[int] = []
        targets: list[int] = []
        at, most = 0, 1
        for span in prefill:
            if scored := span.scored:
                rows += range(at + scored.start - span.start, at + scored.stop - span.start)
                targets += span.request.context.tokens(scored.start + 1, scored.stop + 1)
                most = max(most, span.request.params.prompt_logprobs or 1)
            at += span.stop - span.start
        return cls(np.array(rows), np.array(targets), most) if rows else None


@dataclass(frozen=True)
class TextRows:
    """The text rows of a step: prefill rows first, then one row for each decoding request.

    Attributes:
        sequences: the rows of each request.
        tokens: (rows,) int64 ids; -1 in decode rows, whose token is in `Executor.last_tokens`.
        positions: (rows,) int64 rotary positions.
        visible: (rows,) int32 number of vision tokens seen.
        starts: (rows,) int32 place of the first of them in the request's vision pages.
        lengths: (rows,) int32 number of text tokens seen, the row itself included.
        slots: (rows,) int64 batch slots.
        adapters: (rows,) int32 index of the adapter of each row's request; `NO_ADAPTER` for none.
        num_prefill: number of prefill rows.
        draw_rows: rows from which a token is drawn.
        scored: rows that tell log-probabilities of prompts, if there are any.
    """

    sequences: list[RequestRows]
    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    visible: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    slots: NDArray[np.int64]
    adapters: NDArray[np.int32]
    num_prefill: int
    draw_rows: list[int]
    scored: ScoredRows | None = None

    @classmethod
    def build(
        cls, prefill: Sequence[RowSpan[object]], decode: Sequence[Request[object]], vision_size: int
    ) -> "TextRows":
        """The rows of a step; a page holds `vision_size` vision tokens."""
        num_prefill = sum(rows.stop - rows.start for rows in prefill)
        total = num_prefill + len(decode)
        tokens, positions, slots = (np.zeros(total, dtype=np.int64) for _ in range(3))
        visible, starts, lengths, adapters = (np.zeros(total, dtype=np.int32) for _ in range(4))
        sequences, draw_rows = [], []
        at = 0
        for rows in prefill:
            request, count = rows.request, rows.stop - rows.start
            part = slice(at, at + count)
            context = request.context
            tokens[part] = context.tokens(rows.start, rows.stop)
            positions[part] = context.positions(rows.start, rows.stop)
            sequences.append(RequestRows.of(request, at, range(rows.start, rows.stop), vision_size))
            ends = context.visible(rows.start, rows.stop)
            visible[part] = np.maximum(ends - context.unseen(rows.start), 0)
            starts[part] = sequences[-1].vision_start
            lengths[part] = np.arange(rows.start + 1, rows.stop + 1)
            slots[part], adapters[part] = request.slot, request.adapter
            at += count
            if rows.draws:
                draw_rows.append(at - 1)
        tokens[num_prefill:] = -1
        for request in decode:
            row = request.computed
            sequences.append(RequestRows.of(request, at, range(row, row + 1), vision_size))
            positions[at] = request.context.position(row)
            visible[at], starts[at] = sequences[-1].num_vision, sequences[-1].vision_start
            lengths[at] = row + 1
            slots[at], adapters[at] = request.slot, request.adapter
            draw_rows.append(at)
            at += 1
        scored = ScoredRows.build(prefill)
        return cls(
            sequences, tokens, positions, visible, starts, lengths, slots, adapters, num_prefill, draw_rows, scored
        )

    @property
    def sees(self) -> bool:
        """Whether a row sees vision tokens."""
        return bool(self.visible.any())

    @property
    def adapted(self) -> bool:
        """Whether a row has an adapter."""
        return bool((self.adapters != NO_ADAPTER).any())

    def packed(self, rows: int, padding_slot: int) -> NDArray[np.int64]:
        """(PACKED, rows) int64: tokens, positions, visible, starts, lengths, slots, adapters and `draw_rows`.

        Padding rows have `padding_slot` and no adapter; padded draws are from the last row.
        """
        host = np.zeros((PACKED, rows), dtype=np.int64)
        host[5], host[6], host[7] = padding_slot, NO_ADAPTER, rows - 1
        own = self.tokens, self.positions, self.visible, self.starts, self.lengths, self.slots, self.adapters
        host[:7, : len(self.tokens)] = own
        host[7, : len(self.draw_rows)] = self.draw_rows
        return host


@dataclass(frozen=True)
class VisionRows:
    """The vision tokens whose keys and values a step stores.

    Attributes:
        slots: (vision rows,) int64 KV slots.
        positions: (3, vision rows) int64 rotary positions.
        adapters: (vision rows,) int32, as of `TextRows`.
    """

    slots: NDArray[np.int64]
    positions: Tensor
    adapters: NDArray[np.int32]

    @classmethod
    def build(cls, frames: Sequence[FrameSpan[object]], page_size: int) -> "VisionRows":
        slots, adapters = [], []
        for part in frames:
            tokens = np.arange(*part.request.context.vision_range(part.start, part.stop))
            pages = np.array(part.request.vision_pages, dtype=np.int64)
            slots.append(pages[tokens // page_size - part.request.freed] * page_size + tokens % page_size)
            adapters.append(np.full(len(tokens), part.request.adapter, dtype=np.int32))
        layouts = [layout for part in frames for layout in part.request.context.layouts(part.start, part.stop)]
        positions = [layout.vision(first, last) for layout, first, last in layouts]
        return cls(np.concatenate(slots), torch.cat(positions, dim=1), np.concatenate(adapters))


Entries = NDArray[np.int64]
"""(2, entries): index in the flattened table, page."""


@dataclass(frozen=True)
class TableUpdate:
    """Entries that a step writes into the page tables before it runs."""

    text: Entries
    vision: Entries


@dataclass(frozen=True)
class StepArrays:
    """A step without its requests: what an executor needs to carry it out, apart from the vision tokens.

    Attributes:
        copies: pages to copy first, in this order: (source, target).
        tables: entries of page tables to write next.
        vision: the vision tokens to store, if any.
        text: text rows, in parts that are computed one after the other.
    """

    copies: list[tuple[int, int]]
    tables: TableUpdate
    vision: VisionRows | None
    text: list[TextRows]


@dataclass(frozen=True)
class StepInputs:
    """The arrays of `TextRows` on the device. Padding rows have a batch slot that no request has.

    Attributes:
        tokens: (rows,) int64; -1 for the last token of the batch slot.
        drawing: (draws,) int64 rows from which a token is drawn; None for all rows.
        vision: rows may see vision tokens: cross-attention layers are computed.
        adapted: rows may have adapters.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    starts: Tensor
    lengths: Tensor
    slots: Tensor
    adapters: Tensor
    drawing: Tensor | None
    vision: bool
    adapted: bool

    @classmethod
    def of(cls, packed: Tensor, draws: int | None, vision: bool, adapted: bool) -> "StepInputs":
        """From `TextRows.packed` on the device; `draws` is the number of draws, None for one from every row."""
        tokens, positions, visible, starts, lengths, slots, adapters, drawing = packed.unbind()
        drawing_ = None if draws is None else drawing[:draws]
        seen = visible.int(), starts.int(), lengths.int()
        return cls(tokens, positions, *seen, slots, adapters.int() if adapted else adapters, drawing_, vision, adapted)
