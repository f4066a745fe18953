"""Set-ups: what libraries prepare once for each shape, in more time than most steps take.

A set-up is made where there is time for it. Where there never is, as beside live sessions, it is made all the same
after a while, so that somebody waits longer for a token, once.
"""

import math
from collections.abc import Hashable

SET_UP_SECONDS = 0.08
"""What cuDNN's attention takes for a new (frames, patches), in seconds of the host."""
MANY_PATCHES = 8_192
"""Patches of a batch from which setting cuDNN's attention up pays, and launches take less time than the kernels."""
MOST_WAITS = 64
"""Steps in which set-ups have waited for time, before one is made all the same."""


class SetUps:
    """Set-ups of one thread.

    Attributes:
        spare: seconds that set-ups may take now, so that nobody waits too long for a token; infinite if nobody does.
    """

    def __init__(self) -> None:
        self.spare = math.inf
        self._done: set[Hashable] = set()
        self._refused, self._waits = False, 0
        """Whether a set-up has waited in this step; and in how many steps since one was made for having waited."""

    def begin_step(self, spare: float) -> None:
        """A step begins, in which set-ups may take so many seconds."""
        self._waits += self._refused
        self.spare, self._refused = spare, False

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so many seconds may be set up now."""
        if self.spare >= seconds:
            return True
        if self._waits < MOST_WAITS:
            self._refused = True
            return False
        self._waits, self.spare = 0, seconds
        return True

    def has(self, what: Hashable, seconds: float) -> bool:
        """Whether something is set up, or is to be now, as it may take so many seconds."""
        if what not in self._done and self.allows(seconds):
            self.add(what)
            self.spare -= seconds
        return what in self

    def add(self, what: Hashable) -> None:
        """Something is set up."""
        self._done.add(what)

    def __contains__(self, what: Hashable) -> bool:
        return what in self._done

    def forget(self) -> None:
        """Begin anew, in a thread in which nothing is set up."""
        self._done.clear()
