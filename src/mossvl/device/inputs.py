"""A step as arrays: which rows are computed, where they stand, what they see, and where their keys and values go."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mossvl.scheduling.request import Request
from mossvl.scheduling.scheduler import FrameSpan, RowSpan


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
        draws: requests whose next token is drawn, and the row it is drawn from.
    """

    sequences: list[RequestRows]
    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    visible: NDArray[np.int32]
    lengths: NDArray[np.int32]
    slots: NDArray[np.int64]
    num_prefill: int
    draws: list[Request]
    draw_rows: list[int]

    @classmethod
    def build(cls, prefill: Sequence[RowSpan], decode: Sequence[Request]) -> "TextRows":
        num_prefill = sum(rows.stop - rows.start for rows in prefill)
        total = num_prefill + len(decode)
        tokens, positions, slots = (np.zeros(total, dtype=np.int64) for _ in range(3))
        visible, lengths = (np.zeros(total, dtype=np.int32) for _ in range(2))
        sequences, draws, draw_rows = [], [], []
        at = 0
        for rows in prefill:
            request, count = rows.request, rows.stop - rows.start
            part = slice(at, at + count)
            prompt = len(request.prompt.tokens)
            tokens[part] = request.tokens[rows.start : rows.stop]
            lengths[part] = np.arange(rows.start + 1, rows.stop + 1)
            asked = max(0, min(rows.stop, prompt) - rows.start)
            positions[at : at + asked] = request.prompt.positions[rows.start : rows.start + asked]
            visible[at : at + asked] = request.prompt.visible[rows.start : rows.start + asked]
            answered = np.arange(rows.start + asked, rows.stop) - prompt
            positions[at + asked : at + count] = request.prompt.next_position + answered
            visible[at + asked : at + count] = request.prompt.num_vision
            slots[part] = request.slot
            sequences.append(RequestRows(at, count, request.slot, rows.stop, request.prompt.num_vision))
            at += count
            if rows.draws:
                draws.append(request)
                draw_rows.append(at - 1)
        tokens[num_prefill:] = -1
        for request in decode:
            positions[at] = request.position(request.computed)
            lengths[at] = request.computed + 1
            visible[at] = request.prompt.num_vision
            slots[at] = request.slot
            sequences.append(RequestRows(at, 1, request.slot, request.computed + 1, request.prompt.num_vision))
            draws.append(request)
            draw_rows.append(at)
            at += 1
        return cls(sequences, tokens, positions, visible, lengths, slots, num_prefill, draws, draw_rows)

    @property
    def sees(self) -> bool:
        """Some rows see something."""
        return bool(self.visible.any())

    def packed(self, rows: int, nobody: int) -> NDArray[np.int64]:
        """(6, rows): tokens, positions, visible, lengths, slots, and the rows from which tokens are drawn.

        Rows beyond these have the slot `nobody`; draws beyond these are from the last row.
        """
        host = np.zeros((6, rows), dtype=np.int64)
        host[4], host[5] = nobody, rows - 1
        host[:5, : len(self.tokens)] = self.tokens, self.positions, self.visible, self.lengths, self.slots
        host[5, : len(self.draw_rows)] = self.draw_rows
        return host


def vision_slots(frames: Sequence[FrameSpan], page_size: int) -> NDArray[np.int64]:
    """Where the vision tokens of these frames go, (vision tokens,) int64: page · page_size + place in it."""
    parts = []
    for part in frames:
        start, stop = part.request.prompt.vision_range(part.start, part.stop)
        tokens = np.arange(start, stop)
        pages = np.array(part.request.vision_pages, dtype=np.int64)
        parts.append(pages[tokens // page_size] * page_size + tokens % page_size)
    return np.concatenate(parts)


def vision_positions(frames: Sequence[FrameSpan]) -> Tensor:
    """(3, vision tokens) int64: rotary positions of the vision tokens of these frames."""
    return torch.cat([part.request.prompt.layout.vision(part.start, part.stop) for part in frames], dim=1)


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
