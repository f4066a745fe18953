"""What libraries set up once for each shape, which takes longer than most steps: where there is time for it."""

import math
from collections.abc import Hashable


class SetUps:
    """Set-ups of one thread.

    Attributes:
        spare: seconds that set-ups may take now, so that nobody waits too long for a token; infinite if nobody does.
    """

    def __init__(self) -> None:
        self.spare = math.inf
        self._done: set[Hashable] = set()

    def has(self, what: Hashable, seconds: float) -> bool:
        """Return whether something is set up, or is to be now, as there are so many seconds to spare."""
        if what not in self._done and self.spare >= seconds:
            self._done.add(what)
            self.spare -= seconds
        return what in self._done

    def forget(self) -> None:
        """Begin anew, in a thread in which nothing is set up."""
        self._done.clear()
