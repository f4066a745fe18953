"""The tokens and frames of a request in their order: its prompts, and the tokens drawn after each. No tensors here."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from mossvl.scheduling.prompt import Layout, Place, Prompt


class Context:
    """Prompts, each followed by the tokens that were drawn before the next prompt.

    Args:
        prompt: the first prompt.
        answer: the list of drawn tokens, shared with the handle's draft.
    """

    def __init__(self, prompt: Prompt, answer: list[int] | None = None) -> None:
        self.prompts = [prompt]
        self.answer: list[int] = [] if answer is None else answer
        self._drawn = [0]
        """Number of tokens drawn before each prompt."""
        self._left = [(0, 0, 0)]
        """(row, frame, vision): from the row on, no row sees the frames, and vision tokens, before these."""

    def append(self, prompt: Prompt) -> None:
        """Append a prompt that was built for `end`."""
        assert prompt.begin == self.end, (prompt.begin, self.end)
        self.prompts.append(prompt)
        self._drawn.append(len(self.answer))

    def leave(self, frame: int) -> None:
        """The last known row, which is computed next or again, and all later ones see no frame before this one."""
        assert self._left[-1][1] <= frame <= self.num_frames, (self._left[-1], frame, self.num_frames)
        row = self.length - 1
        if self._left[-1][0] == row:
            self._left.pop()
        self._left.append((row, frame, self._vision_before(frame)))

    @property
    def length(self) -> int:
        """Number of known tokens, prompts and answer."""
        return self.prompts[-1].end.row + len(self.answer) - self._drawn[-1]

    @property
    def end(self) -> Place:
        """Where the next prompt begins."""
        last = self.prompts[-1].end
        drawn = len(self.answer) - self._drawn[-1]
        return last._replace(row=last.row + drawn, position=last.position + drawn)

    # --- rows ----------------------------------------------------------------------------------------------------

    def tokens(self, start: int, stop: int) -> list[int]:
        """Token ids of the rows [start, stop), all known."""
        found = []
        for number, first, split, last in self._pieces(start, stop):
            prompt = self.prompts[number]
            found += prompt.tokens[first - prompt.begin.row : split - prompt.begin.row]
            drawn = self._drawn[number] - prompt.end.row
            found += self.answer[split + drawn : last + drawn]
        return found

    def position(self, row: int) -> int:
        """Rotary position of a row, known or next."""
        prompt = self.prompts[self._prompt_at(row)]
        own = row - prompt.begin.row
        return int(prompt.positions[own]) if own < len(prompt.tokens) else row + prompt.shift

    def positions(self, start: int, stop: int) -> NDArray[np.int32]:
        """Rotary positions of the rows [start, stop)."""
        found = [np.zeros(0, dtype=np.int32)]
        for number, first, split, last in self._pieces(start, stop):
            prompt = self.prompts[number]
            found.append(prompt.positions[first - prompt.begin.row : split - prompt.begin.row])
            found.append(np.arange(split, last, dtype=np.int32) + prompt.shift)
        return np.concatenate(found)

    def visible(self, start: int, stop: int) -> NDArray[np.int32]:
        """End of the vision tokens that each of the rows [start, stop) sees; see `unseen` for their beginning."""
        found = [np.zeros(0, dtype=np.int32)]
        for number, first, split, last in self._pieces(start, stop):
            prompt = self.prompts[number]
            found.append(prompt.visible[first - prompt.begin.row : split - prompt.begin.row])
            found.append(np.full(last - split, prompt.end.vision, dtype=np.int32))
        return np.concatenate(found)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (index of a prompt, first, split, last): prompt rows [first, split), drawn rows [split, last)."""
        number = self._prompt_at(start)
        while start < stop:
            following = self.prompts[number + 1].begin.row if number + 1 < len(self.prompts) else stop
            last = min(stop, following)
            yield number, start, min(max(start, self.prompts[number].end.row), last), last
            start, number = last, number + 1

    def _prompt_at(self, row: int) -> int:
        """Index of the prompt that holds a row, or that the row was drawn after."""
        return bisect_right(self.prompts, row, lo=1, key=lambda prompt: prompt.begin.row) - 1

    # --- frames that have left ---------------------------------------------------------------------------------------

    @property
    def num_left(self) -> int:
        """Number of frames, the first ones, that no row sees from the last known one on."""
        return self._left[-1][1]

    def unseen(self, row: int) -> int:
        """Number of vision tokens, the first ones, that a row does not see since their frames have left."""
        return self._left[self._leaving(row)][2]

    def same_until(self, start: int, stop: int) -> int:
        """The end, `stop` at most, of the rows from `start` on before which no frames have left."""
        following = self._leaving(start) + 1
        return min(stop, self._left[following][0]) if following < len(self._left) else stop

    def _leaving(self, row: int) -> int:
        if row >= self._left[-1][0]:  # As nearly always.
            return len(self._left) - 1
        return bisect_right(self._left, row, key=itemgetter(0)) - 1

    # --- frames --------------------------------------------------------------------------------------------------

    @property
    def num_frames(self) -> int:
        return self.prompts[-1].end.frame

    @property
    def num_vision(self) -> int:
        return self.prompts[-1].end.vision

    def frames_between(self, start: int, stop: int) -> tuple[int, int]:
        """The frames whose image tokens are among the rows [start, stop), as a range."""
        return self._frames_before(start), self._frames_before(stop)

    def vision_range(self, first: int, last: int) -> tuple[int, int]:
        """The vision tokens of the frames [first, last), as a range."""
        start = self._vision_before(first)
        return start, self._vision_before(last) if last > first else start

    def grid(self, frame: int) -> tuple[int, int]:
        """Patch rows and columns of a frame."""
        prompt = self._prompt_of(frame)
        return prompt.frame_grids[frame - prompt.begin.frame]

    def patches(self, frame: int) -> int:
        rows, columns = self.grid(frame)
        return rows * columns

    def layouts(self, first: int, last: int) -> Iterator[tuple[Layout, int, int]]:
        """Yield (layout, first, last) for the frames [first, last): each layout counts its own frames from 0."""
        while first < last:
            prompt = self._prompt_of(first)
            stop = min(last, prompt.end.frame)
            yield prompt.layout, first - prompt.begin.frame, stop - prompt.begin.frame
            first = stop

    def _frames_before(self, row: int) -> int:
        prompt = self.prompts[self._prompt_at(row)]
        return prompt.begin.frame + bisect_left(prompt.frame_rows, row)

    def _vision_before(self, frame: int) -> int:
        if not frame:
            return 0
        prompt = self._prompt_of(frame - 1)
        return prompt.frame_ends[frame - 1 - prompt.begin.frame]

    def _prompt_of(self, frame: int) -> Prompt:
        return self.prompts[bisect_right(self.prompts, frame, lo=1, key=lambda prompt: prompt.begin.frame) - 1]
