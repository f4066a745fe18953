"""A prompt as the scheduler sees it: tokens, and where its frames stand. No tensors here."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True, eq=False)
class Prompt:
    """Tokens and frames of a prompt, and where they stand (see `mossvl.model.xrope`)."""

    tokens: list[int]
    positions: NDArray[np.int32]
    """(tokens,): rotary position of each; time, height and width are the same for text."""
    visible: NDArray[np.int32]
    """(tokens,): how many vision tokens each sees."""
    frame_rows: list[int]
    """Which token is each frame's image token."""
    frame_ends: list[int]
    """End of each frame in the vision sequence, its separator included."""
    frame_grids: list[tuple[int, int]]
    """Patch rows and columns of each frame."""
    layout: Layout

    @property
    def next_position(self) -> int:
        """Rotary position of the answer's first token."""
        return self.layout.next_position

    @property
    def num_frames(self) -> int:
        return len(self.frame_rows)

    @property
    def num_vision(self) -> int:
        return self.frame_ends[-1] if self.frame_ends else 0

    def frames_between(self, start: int, stop: int) -> tuple[int, int]:
        """The frames whose image tokens are among the tokens [start, stop), as a range."""
        return bisect_left(self.frame_rows, start), bisect_left(self.frame_rows, stop)

    def vision_range(self, first: int, last: int) -> tuple[int, int]:
        """The vision tokens of the frames [first, last), as a range."""
        start = self.frame_ends[first - 1] if first else 0
        return start, self.frame_ends[last - 1] if last > first else start

    def patches(self, frame: int) -> int:
        rows, columns = self.frame_grids[frame]
        return rows * columns
