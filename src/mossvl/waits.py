"""What a device, or other processes, are waited for in, and whether that takes too long."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import ref

LOOK = 1.0
"""Seconds between two looks at what is waited for."""
STEP = 300.0
"""Seconds after which a step that has not ended is taken to hang: the first one may compile kernels."""


class Waits:
    """The waits that have not ended, of all threads."""

    def __init__(self) -> None:
        self._since: dict[object, float] = {}
        self._looked = time.monotonic()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Within, something is waited for."""
        wait = object()
        self._since[wait] = time.monotonic()
        try:
            yield
        finally:
            del self._since[wait]

    def go_on(self) -> None:
        """What is waited for goes on: all waits begin anew."""
        for wait in list(self._since):
            self._since[wait] = time.monotonic()

    def look(self) -> bool:
        """Note the time; return whether this comes late, since this process was stopped, or short of time.

        What is waited for may have been stopped, too, so that all waits begin anew then.
        """
        now, before = time.monotonic(), self._looked
        self._looked = now
        late = now - before > 2 * LOOK
        if late:
            self.go_on()
        return late

    @property
    def hangs(self) -> bool:
        """Whether something has been waited for too long."""
        now = time.monotonic()
        return now - min(self._since.copy().values(), default=now) > STEP


def watched(hangs: Callable[[], None]) -> Waits:
    """Return waits that a thread looks at while there are any references to them; it calls `hangs`, once."""
    waits = Waits()
    threading.Thread(target=_watch, args=(ref(waits), hangs), name="mossvl-waits", daemon=True).start()
    return waits


def _watch(watched: "ref[Waits]", hangs: Callable[[], None]) -> None:
    while True:
        time.sleep(LOOK)
        waits = watched()
        if waits is None:
            return
        waits.look()
        if waits.hangs:
            hangs()
            return
        del waits
