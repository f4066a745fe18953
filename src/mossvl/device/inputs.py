"""A step as arrays: which rows are computed, where they stand, what they see, and where their keys and values go."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mossvl.scheduling.request import Request
from mossvl.scheduling.step import FrameSpan, RowSpan


@dataclass(frozen=True)
class RequestRows:
    """The rows of one request in a step: rows [start, start + rows) of the batch are tokens up to `length` of it."""

    start: int
    rows: int
    slot: int
    length: int
    num_vision: int


def to_device(array: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """A copy on the device, without waiting for it where that is a GPU."""
    host = array if isinstance(array, Tensor) else torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@dataclass(frozen=True)
class TextRows:
    """The text rows of a step: prompts' rows first, then one row for each request that decodes.

    Attributes:
        sequences: the rows of each request.
        tokens: (rows,) int64 ids; -1 for the token that a decoding request has drawn last, which is on the device.
        positions: (rows,) int64 rotary positions.
        visible: (rows,) int32 vision tokens seen.
        lengths: (rows,) int32 text tokens seen, the row itself included.
        slots: (rows,) int64 place in the batch.
        num_prefill: rows of prompts.
        draw_rows: rows from which a token is drawn.
    """

    sequences: list[RequestRows]
    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    visible: NDArray[np.int32]
    lengths: NDArray[np.int32]
    slots: NDArray[np.int64]
    num_prefill: int
    draw_rows: list[int]

    @classmethod
    def build(cls, prefill: Sequence[RowSpan[object]], decode: Sequence[Request[object]]) -> "TextRows":
        num_prefill = sum(rows.stop - rows.start for rows in prefill)
        total = num_prefill + len(decode)
        tokens, positions, slots = (np.zeros(total, dtype=np.int64) for _ in range(3))
        visible, lengths = (np.zeros(total, dtype=np.int32) for _ in range(2))
        sequences, draw_rows = [], []
        at = 0
        for rows in prefill:
            request, count = rows.request, rows.stop - rows.start
            part = slice(at, at + count)
            context = request.context
            tokens[part] = context.tokens(rows.start, rows.stop)
            positions[part] = context.positions(rows.start, rows.stop)
            visible[part] = context.visible(rows.start, rows.stop)
            lengths[part] = np.arange(rows.start + 1, rows.stop + 1)
            slots[part] = request.slot
            sequences.append(RequestRows(at, count, request.slot, rows.stop, context.num_vision))
            at += count
            if rows.draws:
                draw_rows.append(at - 1)
        tokens[num_prefill:] = -1
        for request in decode:
            positions[at] = request.context.position(request.computed)
            visible[at] = num_vision = request.context.num_vision
            lengths[at] = request.computed + 1
            slots[at] = request.slot
            sequences.append(RequestRows(at, 1, request.slot, request.computed + 1, num_vision))
            draw_rows.append(at)
            at += 1
        return cls(sequences, tokens, positions, visible, lengths, slots, num_prefill, draw_rows)

    @property
    def sees(self) -> bool:
        """Some rows see something."""
        return bool(self.visible.any())

    def packed(self, rows: int, padding_slot: int) -> NDArray[np.int64]:
        """(6, rows): tokens, positions, visible, lengths, slots, and the rows from which tokens are drawn.

        Padding rows have `padding_slot`; draws beyond these are from the last row.
        """
        host = np.zeros((6, rows), dtype=np.int64)
        host[4], host[5] = padding_slot, rows - 1
        host[:5, : len(self.tokens)] = self.tokens, self.positions, self.visible, self.lengths, self.slots
        host[5, : len(self.draw_rows)] = self.draw_rows
        return host


@dataclass(frozen=True)
class VisionRows:
    """Vision tokens of frames that are read in a step.

    Attributes:
        slots: (vision rows,) int64, where their keys and values go: page · page_size + place in it.
        positions: (3, vision rows) int64 rotary positions.
    """

    slots: NDArray[np.int64]
    positions: Tensor

    @classmethod
    def build(cls, frames: Sequence[FrameSpan[object]], page_size: int) -> "VisionRows":
        slots = []
        for part in frames:
            tokens = np.arange(*part.request.context.vision_range(part.start, part.stop))
            pages = np.array(part.request.vision_pages, dtype=np.int64)
            slots.append(pages[tokens // page_size] * page_size + tokens % page_size)
        layouts = [layout for part in frames for layout in part.request.context.layouts(part.start, part.stop)]
        positions = [layout.vision(first, last) for layout, first, last in layouts]
        return cls(np.concatenate(slots), torch.cat(positions, dim=1))


Entries = NDArray[np.int64]
"""(2, entries): where in a flat table, and which page."""


@dataclass(frozen=True)
class TableUpdate:
    """Entries that a step writes into the page tables before it runs."""

    text: Entries
    vision: Entries


@dataclass(frozen=True)
class StepArrays:
    """A step without its requests: all that is needed to carry it out, but the vision tokens and the draws.

    Attributes:
        copies: pages to be copied first, in this order: (from, to).
        tables: entries of page tables to be written next.
        vision: where the vision tokens go whose frames are read, if there are any.
        text: text rows, in parts that are computed one after the other.
    """

    copies: list[tuple[int, int]]
    tables: TableUpdate
    vision: VisionRows | None
    text: list[TextRows]


@dataclass(frozen=True)
class StepInputs:
    """What a step computes from, all on the device; see `TextRows`. Padding rows have a slot that no request has.

    Attributes:
        tokens: (rows,) int64, -1 for the token that was drawn last.
        drawing: (draws,) int64 rows from which tokens are drawn; None for all.
        vision: some rows see something.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    lengths: Tensor
    slots: Tensor
    drawing: Tensor | None
    vision: bool

    @classmethod
    def of(cls, packed: Tensor, draws: int | None, vision: bool) -> "StepInputs":
        """From `TextRows.packed` on the device; `draws` tokens are drawn, or one from every row (None)."""
        tokens, positions, visible, lengths, slots, drawing = packed.unbind()
        drawing_ = None if draws is None else drawing[:draws]
        return cls(tokens, positions, visible.int(), lengths.int(), slots, drawing_, vision)
