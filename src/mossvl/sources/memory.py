"""What all loads share: a budget of memory for pixels, and the media cache."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from mossvl.processing.plan import MediumPlan

V = TypeVar("V")

POLL_SECONDS = 0.05


class Holder(Protocol):
    """A load that holds pixels, in bytes; `check` raises if the load was stopped."""

    held: int

    @property
    def stopped(self) -> bool: ...

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


class Recent(Generic[V]):
    """A cache of values by key, for several threads; evicts the least recently used."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable | None) -> V | None:
        """Return the value of a key; None without one."""
        with self._lock:
            if key is None or key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable | None, value: V) -> None:
        """Keep a value, and drop the least recently used ones beyond `entries`; without a key, do nothing."""
        if key is None or not self.entries:
            return
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self.entries:
                self._kept.popitem(last=False)


class MediaMemory:
    """The media cache, by keys that change with the files.

    The digests of a medium are computed by one load, which leads; the others wait for it.

    Args:
        entries: of each of the two caches.

    Attributes:
        plans: plans of all media of a prompt, without open files.
        digests: digests of all frames of a medium.
    """

    def __init__(self, entries: int) -> None:
        self.plans: Recent[list[MediumPlan]] = Recent(entries)
        self.digests: Recent[list[bytes]] = Recent(entries)
        self._lock = threading.Lock()
        self._leaders: dict[Hashable, Holder] = {}

    def lead(self, key: Hashable, load: Holder) -> Holder | None:
        """Make `load` lead a key, until it calls `done`, and return None; or return the load that leads already."""
        with self._lock:
            leader = self._leaders.get(key)
            if leader is None:
                self._leaders[key] = load
            return leader

    def leads(self, load: Holder, key: Hashable) -> bool:
        """Whether `load` leads a key."""
        with self._lock:
            return self._leaders.get(key) is load

    def done(self, key: Hashable) -> None:
        """End the lead of a key."""
        with self._lock:
            del self._leaders[key]
