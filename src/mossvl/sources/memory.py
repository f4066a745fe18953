"""What all loads share: a budget of memory for pixels, and the media cache."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

POLL_SECONDS = 0.05


class Holder(Protocol):
    """A load that holds pixels, in bytes; `check` raises if the load was stopped."""

    held: int

    def check(self) -> None: ...


class Budget:
    """Limit on the bytes of decoded pixels that all loads hold."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._changed = threading.Condition()

    def take(self, load: "Holder", count: int, stalled: Callable[[], None]) -> None:
        """Take `count` bytes, once they are free; a load that holds nothing never waits.

        Args:
            stalled: called once before a wait.

        Raises:
            GenerationCancelled: the load was stopped.
        """
        reported = False
        with self._changed:
            while self.used + count > self.limit and load.held:
                if not reported:
                    reported = True
                    stalled()
                self._changed.wait(POLL_SECONDS)
                load.check()
            load.check()
            self.used += count
            load.held += count

    def give(self, load: "Holder", count: int | None = None) -> None:
        """Free `count` bytes, or all bytes that the load holds."""
        with self._changed:
            count = load.held if count is None else count
            self.used -= count
            load.held -= count
            self._changed.notify_all()


@dataclass(frozen=True)
class Remembered:
    """Stands for the image or clip of a cached plan, which has no open file."""

    height: int
    width: int


class MediaMemory:
    """The media cache: plans and digests of files, by keys that change with the files; LRU.

    For each key, one load leads: it computes the value, for which the others wait.
    """

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._leaders: dict[Hashable, Any] = {}

    def get(self, key: Hashable | None) -> Any:
        """Return the value of a key; None without one."""
        with self._lock:
            if key is None or key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable | None, value: Any) -> None:
        """Keep a value, and drop the least recently used ones beyond `entries`."""
        if key is None or not self.entries:
            return
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self.entries:
                self._kept.popitem(last=False)

    def lead(self, key: Hashable, load: Any) -> Any:
        """Make `load` lead a key, until it calls `done`, and return None; or return the load that leads already."""
        with self._lock:
            leader = self._leaders.setdefault(key, load)
            return None if leader is load else leader

    def leads(self, load: Any, key: Hashable) -> bool:
        """Whether `load` leads a key."""
        with self._lock:
            return self._leaders.get(key) is load

    def done(self, key: Hashable) -> None:
        """End the lead of a key."""
        with self._lock:
            del self._leaders[key]
