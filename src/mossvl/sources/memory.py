"""What loading of media shares: room for pixels, and what is remembered of files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

POLL_SECONDS = 0.05


class Holder(Protocol):
    """Whoever holds pixels; `check` raises if it is to stop."""

    held: int

    def check(self) -> None: ...


class Budget:
    """Bytes of decoded pixels that may wait in memory, over all loads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._changed = threading.Condition()

    def take(self, load: "Holder", count: int, stalled: Callable[[], None]) -> None:
        """Wait until `count` bytes are free; a load that holds nothing never waits.

        Raises:
            GenerationCancelled: the load was stopped.
        """
        told = False
        with self._changed:
            while self.used + count > self.limit and load.held:
                if not told:
                    told = True
                    stalled()
                self._changed.wait(POLL_SECONDS)
                load.check()
            load.check()
            self.used += count
            load.held += count

    def give(self, load: "Holder", count: int | None = None) -> None:
        """So many bytes are free again; all that the load holds, if no number is given."""
        with self._changed:
            count = load.held if count is None else count
            self.used -= count
            load.held -= count
            self._changed.notify_all()


@dataclass(frozen=True)
class Remembered:
    """Stands for the image or clip of a plan that is only remembered; its pixels must be loaded anew."""

    height: int
    width: int


class MediaMemory:
    """What is known of files that were seen: plans, and digests of frames, for as long as the files do not change."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._leaders: dict[Hashable, Any] = {}

    def get(self, key: Hashable | None) -> Any:
        with self._lock:
            if key is None or key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable | None, value: Any) -> None:
        if key is None or not self.entries:
            return
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self.entries:
                self._kept.popitem(last=False)

    def lead(self, key: Hashable, load: Any) -> Any:
        """None: `load` is to load what the key names, and calls `done`. Else the load that does so already."""
        with self._lock:
            leader = self._leaders.setdefault(key, load)
            return None if leader is load else leader

    def leads(self, load: Any, key: Hashable) -> bool:
        """Whether a load has not yet called `done`."""
        with self._lock:
            return self._leaders.get(key) is load

    def done(self, key: Hashable) -> None:
        with self._lock:
            del self._leaders[key]
