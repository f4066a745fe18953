"""The pace at which a client's messages are taken."""

import time
from collections.abc import Callable


class Pace:
    """Spaces out what comes too fast, after a burst.

    Args:
        rate: how many may come in a second, and how many at once.
        now: seconds of any origin.
    """

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._now = rate, now
        self._due = now() - 1.0

    def delay(self) -> float:
        """Count one more; return for how many seconds it has to wait."""
        now = self._now()
        self._due = max(self._due, now - 1.0) + 1.0 / self._rate
        return max(0.0, self._due - now)
