"""Whether a pool's replicas live: each sends a beat when it has nothing else to tell."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger("mossvl.replicas")

BEAT = 1.0
"""Seconds in which a replica tells something: news, or nothing, which is a beat."""
SILENCE = 4.0
"""Seconds of silence after which a replica gets no queries until it is heard again."""
LONGEST_SILENCE = 40.0
"""Seconds of silence after which a replica is killed."""


class Beating(Protocol):
    """What tells of a replica's queries.

    Attributes:
        heard: when the replica has told something last, by `time.monotonic`.
        silent: whether that is so long ago that the replica gets no queries.
        kill: kills the replica.
    """

    replica: int
    heard: float
    silent: bool
    kill: Callable[[], None]


One = TypeVar("One", bound=Beating)


class Beats(Generic[One]):
    """A thread that watches for silence, until it is ended.

    Args:
        watched: gives what is watched now.
        changed: called with one of these that has fallen silent, or is heard again.
    """

    def __init__(self, watched: Callable[[], Iterable[One]], changed: Callable[[One], None]) -> None:
        self._watched, self._changed = watched, changed
        self._over = threading.Event()
        threading.Thread(target=self._run, name="mossvl-beats", daemon=True).start()

    def end(self) -> None:
        """Watch no more."""
        self._over.set()

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(BEAT):
            now = time.monotonic()
            late, looked = now - looked > 2 * BEAT, now
            for one in self._watched():
                if late:  # This process was stopped, or short of time: beats may wait to be read.
                    one.heard = max(one.heard, now - BEAT)
                self._look(one, now)

    def _look(self, one: One, now: float) -> None:
        silent = now - one.heard > SILENCE
        if silent != one.silent:
            one.silent = silent
            what = "tells nothing, and gets no queries until it does" if silent else "is heard again"
            logger.warning("replica %d %s", one.replica, what)
            self._changed(one)
        if now - one.heard > LONGEST_SILENCE:
            logger.error("replica %d told nothing for %g seconds; it is killed", one.replica, LONGEST_SILENCE)
            one.heard = now
            one.kill()
