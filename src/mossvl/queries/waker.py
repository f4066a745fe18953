"""Sets events of asyncio loops from the engine's thread."""

import asyncio
from collections import deque
from weakref import WeakKeyDictionary, ref


class Waker:
    """Sets events of one loop from other threads.

    Waking a loop takes a system call; all events that are set until the loop wakes share one, as after a step that adds
    tokens to many answers.
    """

    _of: "WeakKeyDictionary[asyncio.AbstractEventLoop, Waker]" = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._events: deque[asyncio.Event] = deque()
        self._waking = False

    @classmethod
    def here(cls) -> "Waker":
        """Return the running event loop's waker, made at first use."""
        loop = asyncio.get_running_loop()
        return cls._of.get(loop) or cls._of.setdefault(loop, cls(loop))

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
        self._events.append(event)
        if not self._waking:
            self._waking = True
            loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        self._waking = False  # First: a later event is then either set below or wakes the loop again.
        while self._events:
            self._events.popleft().set()
