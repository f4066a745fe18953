"""A counting semaphore that admits by priority."""

import threading
from bisect import insort
from collections.abc import Callable
from itertools import count

from mossvl.sources.memory import POLL_SECONDS


class PrioritySemaphore:
    """A counting semaphore; waiters acquire in ascending order of priority, FIFO among equals.

    Args:
        value: how often it can be acquired before it is released.
    """

    def __init__(self, value: int) -> None:
        self.value = value
        self.waiting: list[tuple[int, int]] = []
        """(priority, serial number) of each waiter, the next one first."""
        self._serial = count()
        self._changed = threading.Condition()

    def acquire(self, priority: int = 0, check: Callable[[], None] = lambda: None) -> None:
        """Wait for a release, if there is none left.

        Args:
            check: called while waiting; raises an error to stop waiting.
        """
        with self._changed:
            waiter = priority, next(self._serial)
            insort(self.waiting, waiter)
            try:
                while not self.value or self.waiting[0] != waiter:
                    self._changed.wait(POLL_SECONDS)
                    check()
                self.value -= 1
            finally:
                self.waiting.remove(waiter)
                self._changed.notify_all()

    def release(self) -> None:
        with self._changed:
            self.value += 1
            self._changed.notify_all()
