"""A prompt as the scheduler sees it: tokens, frames, and their places in the context. No tensors here."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Layout(Protocol):
    """Rotary positions of a prompt's frames, and of what follows; see `mossvl.model.xrope.TextLayout`."""

    @property
    def next_position(self) -> int:
        """Rotary position of the first token after the prompt."""
        ...

    def vision(self, first: int, last: int) -> "Tensor":
        """(3, vision tokens) int64 of the frames [first, last)."""
        ...


class Place(NamedTuple):
    """A point in a context: numbers of rows, frames and vision tokens before it, and the next rotary position."""

    row: int = 0
    frame: int = 0
    vision: int = 0
    position: int = 0


START = Place()


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt of a request. Rows, frames and vision tokens are counted from the beginning of the context."""

    begin: Place
    tokens: list[int]
    positions: NDArray[np.int32]
    """(tokens,): rotary position of each (see `mossvl.model.xrope`); time, height and width are the same for text."""
    visible: NDArray[np.int32]
    """(tokens,): number of vision tokens that each token sees."""
    frame_rows: list[int]
    """Row of each frame's image token."""
    frame_ends: list[int]
    """End of each frame in the vision sequence, its separator included."""
    frame_grids: list[tuple[int, int]]
    """Patch rows and columns of each frame."""
    layout: Layout

    @cached_property
    def end(self) -> Place:
        """Place after the prompt."""
        begin, frames = self.begin, len(self.frame_ends)
        vision = self.frame_ends[-1] if frames else begin.vision
        return Place(begin.row + len(self.tokens), begin.frame + frames, vision, self.layout.next_position)

    @property
    def shift(self) -> int:
        """Rotary position minus row, of tokens drawn after the prompt."""
        return self.end.position - self.end.row
