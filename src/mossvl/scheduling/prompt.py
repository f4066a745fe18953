"""Tokens and frames that are given to a request at once, and where they stand. No tensors here."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Layout(Protocol):
    """Rotary positions of a prompt's frames, and of what follows; see `mossvl.model.xrope.TextLayout`."""

    @property
    def next_position(self) -> int:
        """Of the first token after the prompt."""
        ...

    def vision(self, first: int, last: int) -> Any:
        """(3, vision tokens) of the frames [first, last)."""
        ...


class Place(NamedTuple):
    """A point in a request's context: how much is before it, and the rotary position of the token that follows."""

    row: int = 0
    frame: int = 0
    vision: int = 0
    position: int = 0


START = Place()


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, or what is appended to a request later; everything is counted from the beginning of the context."""

    begin: Place
    tokens: list[int]
    positions: NDArray[np.int32]
    """(tokens,): rotary position of each (see `mossvl.model.xrope`); time, height and width are the same for text."""
    visible: NDArray[np.int32]
    """(tokens,): how many vision tokens each sees."""
    frame_rows: list[int]
    """Which row each frame's image token is."""
    frame_ends: list[int]
    """End of each frame in the vision sequence, its separator included."""
    frame_grids: list[tuple[int, int]]
    """Patch rows and columns of each frame."""
    layout: Layout

    @cached_property
    def end(self) -> Place:
        """What follows it."""
        begin, frames = self.begin, len(self.frame_ends)
        vision = self.frame_ends[-1] if frames else begin.vision
        return Place(begin.row + len(self.tokens), begin.frame + frames, vision, self.layout.next_position)

    @property
    def shift(self) -> int:
        """By how much the rotary positions of the tokens that are drawn after it are ahead of their rows."""
        return self.end.position - self.end.row
