"""What clients have made and name by id: each belongs to an API key; limited in number, size and age."""

import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mossvl.server.errors import RequestError


@dataclass(kw_only=True)
class Kept:
    """Something that is kept for later requests.

    Attributes:
        id: random id, which cannot be guessed.
        owner: stands for the API key that made it, and alone may use it; "" on a server without keys.
        size: bytes.
        created, used: Unix times of its making and of its last use, in seconds.
    """

    id: str
    owner: str
    size: int
    created: float = field(default_factory=time.time)
    used: float = field(default_factory=time.time)


K = TypeVar("K", bound=Kept)


class Store(ABC, Generic[K]):
    """Things of one kind; whoever asks for another key's is told that there is none.

    Args:
        space, count: most bytes of all together, and most of them; the least recently used are removed first.
        seconds: how long a thing is kept after its last use.
    """

    def __init__(self, space: int, seconds: float, count: int = sys.maxsize) -> None:
        self.space, self.seconds, self.count = space, seconds, count
        self._kept: dict[str, K] = {}
        """In the order of their use."""
        self._size = 0
        """Bytes of all, with those that are reserved."""
        self._lock = threading.Lock()

    @abstractmethod
    def missing(self, id: str, param: str | None) -> RequestError:
        """Return the refusal, with status 404, of a request that names what is not there (in its field `param`)."""

    def removed(self, one: K) -> None:
        """Free what belongs to a thing that was removed."""

    def reserve(self, size: int) -> None:
        """Reserve bytes, for which the least recently used things are removed; a negative number releases some."""
        with self._lock:
            self._size += size
            self._forget()

    def add(self, one: K, reserved: int = 0) -> None:
        """Keep a thing, which must be no larger than all space; so many of its bytes were reserved."""
        with self._lock:
            self._kept[one.id] = one
            self._size += one.size - reserved
            self._forget()

    def get(self, owner: str, id: str, param: str | None = None) -> K:
        """Return a thing and renew its time of last use.

        Args:
            param: the request's field that names it.

        Raises:
            RequestError: this key has none of this id, or it was removed.
        """
        with self._lock:
            self._forget()
            found = self._kept.get(id)
            if found is None or found.owner != owner:
                raise self.missing(id, param)
            found.used = time.time()
            self._kept[id] = self._kept.pop(id)
            return found

    def of(self, owner: str) -> list[K]:
        """Return what a key has made, newest first."""
        with self._lock:
            self._forget()
            own = [one for one in self._kept.values() if one.owner == owner]
        return sorted(own, key=lambda one: one.created, reverse=True)

    def remove(self, owner: str, id: str) -> None:
        """Remove a thing.

        Raises:
            RequestError: as `get`.
        """
        self.get(owner, id)
        with self._lock:
            self._drop(id)

    def forget_old(self) -> None:
        """Remove what has expired."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        """Remove what has expired, then the least recently used until the others fit."""
        now = time.time()
        for id, one in list(self._kept.items()):
            full = len(self._kept) > self.count or self._size > self.space
            if not full and now - one.used <= self.seconds:
                return
            self._drop(id)

    def _drop(self, id: str) -> None:
        one = self._kept.pop(id, None)
        if one is not None:
            self._size -= one.size
            self.removed(one)
