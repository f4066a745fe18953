"""Sets events of asyncio loops from the engine's thread."""

import asyncio
from weakref import WeakKeyDictionary, ref

PAUSE = 0.4e-3
"""Seconds that a loop is left alone after it was woken, for each event that was set then."""
LONGEST_PAUSE = 0.05


class Waker:
    """Sets events of one loop from other threads.

    Waking a loop takes a system call; all events that are set until the loop wakes share one, as after a step that adds
    tokens to many answers.

    Args:
        pause: seconds after the loop was woken, for each event set then, in which further events wait for the next
            wake-up. Many streams then send the tokens of several steps at once, instead of keeping the interpreter
            from the engine; a few streams hardly wait.
    """

    _of: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, Waker]]" = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop, pause: float = 0.0) -> None:
        self._loop = ref(loop)
        self._pause = pause
        self._events: dict[asyncio.Event, None] = {}
        self._waking = False

    @classmethod
    def here(cls, pause: float = 0.0) -> "Waker":
        """Return the running event loop's waker with this pause, made at first use."""
        loop = asyncio.get_running_loop()
        wakers = cls._of.setdefault(loop, {})
        return wakers.get(pause) or wakers.setdefault(pause, cls(loop, pause))

    def set(self, event: asyncio.Event) -> None:
        """Have the loop set its event; do nothing if the loop no longer exists.

        Raises:
            RuntimeError: the loop is closed.
        """
        loop = self._loop()
        if loop is None:
            return
        if loop.is_closed():
            self._events.clear()
            raise RuntimeError("the event loop is closed")
        self._events[event] = None
        if not self._waking:
            self._waking = True
            loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        loop, pause = self._loop(), min(LONGEST_PAUSE, self._pause * len(self._events))
        if pause and loop is not None:
            loop.call_later(pause, self._go_on)
        else:
            self._waking = False  # First: a later event is then either set below or wakes the loop again.
        while self._events:
            self._events.popitem()[0].set()

    def _go_on(self) -> None:
        """End a pause: set the events that have waited for it."""
        self._waking = False  # First, as above.
        if self._events and not self._waking:
            self._waking = True
            self._set_all()
