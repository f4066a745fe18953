"""How Python is set while servers run in its process, so that no request waits for it; set back after the last one."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_SECONDS = 0.5e-3
"""Longest time for which the engine's thread waits for the interpreter while other threads compute; Python's 5 ms would
pass several times in each step."""
PYTHONS_OWN = 1000
"""Below so many, frozen objects are the few hundred immortal ones that Python 3.12 counts among them by itself."""
_lock = threading.Lock()
_held: list[tuple[float, bool]] = []
"""For each server, what it has found: the switch interval, and whether the program had frozen nothing."""


@contextmanager
def serving() -> Iterator[None]:
    """Switch threads often, and keep the objects that there are now out of collections, which pause every request."""
    with _lock:
        gc.collect()
        _held.append((sys.getswitchinterval(), gc.get_freeze_count() < PYTHONS_OWN))
        gc.freeze()
        sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        with _lock:
            first = _held[0]
            _held.pop()
            if not _held:
                interval, thawed = first
                sys.setswitchinterval(interval)
                if thawed:
                    gc.unfreeze()
