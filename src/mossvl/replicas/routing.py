"""Which replica takes a request: the one that has seen its medium, or the one with the least to do."""

import math
import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from hashlib import blake2b

AMPLE, SKEW = 8, 2.0
"""A replica takes requests by key up to the larger of AMPLE requests and SKEW times the mean of all replicas."""


@dataclass
class Load:
    """What a replica has to do: the requests that it has not ended, and their tokens together.

    Attributes:
        ended: requests that it has ended since it was opened.
    """

    requests: int = 0
    tokens: int = 0
    ended: int = field(default=0, compare=False)

    @property
    def cold(self) -> bool:
        """Whether the replica is new and has enough to do for its beginning."""
        return self.requests >= AMPLE + self.ended


class Router:
    """Chooses a replica for each request, and counts what each has to do; any thread may use it.

    A request with a key goes to the replica of this key (rendezvous hashing), so that what it begins with is found in
    that replica's caches; when replicas come and go, only the keys of these move. Each key has an order of all
    replicas: if the first is full, or has more than its share (consistent hashing with bounded loads,
    arXiv:1608.01350), the next takes the request, so that what is asked for often has several replicas, and always the
    same. A request without a key, and one that no replica takes by key, goes where the fewest tokens are outstanding.
    A replica that was opened just now would be given all of them at once: until it has ended some, it has few more
    than that, unless the others are as new (slow start).

    Args:
        full: requests that a replica runs at a time; to one with so many, no key holds a request any more.
        most: requests of all open replicas, beside those that they run; infinite by default.
    """

    def __init__(self, full: int, most: float = math.inf) -> None:
        self.full, self.most = full, most
        self._loads: dict[int, Load] = {}
        self._open: set[int] = set()
        self._turn = 0
        self._lock = threading.Lock()

    def open(self, replica: int) -> None:
        """Let a replica be chosen."""
        with self._lock:
            self._open.add(replica)
            self._loads.setdefault(replica, Load()).ended = 0

    def close(self, replica: int) -> None:
        """Let a replica be chosen no more; its requests may go on."""
        with self._lock:
            self._open.discard(replica)

    @property
    def serving(self) -> frozenset[int]:
        """The replicas that may be chosen."""
        with self._lock:
            return frozenset(self._open)

    @property
    def requests(self) -> int:
        """The requests that have not ended, of all replicas."""
        with self._lock:
            return sum(load.requests for load in self._loads.values())

    def load(self, replica: int) -> Load:
        """Return what a replica has to do."""
        with self._lock:
            return replace(self._loads.get(replica, Load()))

    def begin(
        self, tokens: int, key: bytes | None = None, avoid: Collection[int] = (), prefer: int | None = None
    ) -> int | None:
        """Choose the replica of a request, and count the request as its own until `end`.

        Args:
            tokens: estimate of the request's tokens, of prompt and answer together.
            key: what requests have in common that one replica should take.
            avoid: replicas that are not to be chosen.
            prefer: the replica that is to take the request, in place of its key's; it may be closed or full.

        Returns:
            the replica's number; None if no replica is open, or the open ones have all that they may have (`full`).
        """
        with self._lock:
            open_ones = self._open.difference(avoid)
            waiting = sum(max(0, self._loads[one].requests - self.full) for one in open_ones)
            free = any(self._loads[one].requests < self.full for one in open_ones)
            if not open_ones or not (free or waiting < self.most):
                return None
            chosen = self._chosen(open_ones, key, prefer)
            self._loads[chosen].requests += 1
            self._loads[chosen].tokens += tokens
            return chosen

    def end(self, replica: int, tokens: int) -> None:
        """Count a request as ended; `tokens` as for `begin`."""
        with self._lock:
            self._loads[replica].requests -= 1
            self._loads[replica].tokens -= tokens
            self._loads[replica].ended += 1

    def least(self, avoid: Collection[int] = ()) -> int | None:
        """Return the open replica with the least to do, for what is not counted; None if no replica is open.

        Of several with equally little to do, it is each one's turn.
        """
        with self._lock:
            ordered = sorted(self._open.difference(avoid))
            self._turn += 1
            start = self._turn % max(1, len(ordered))
            return min(ordered[start:] + ordered[:start], key=lambda one: self._busy(one)[:-1], default=None)

    def _chosen(self, open_ones: Collection[int], key: bytes | None, prefer: int | None) -> int:
        mean = sum(self._loads[one].requests for one in open_ones) / len(open_ones)
        most = min(self.full, max(AMPLE, SKEW * mean))
        preferred = [prefer] if prefer is not None and prefer in open_ones else []
        warm = [one for one in open_ones if not self._loads[one].cold]
        for own in [*preferred, *([] if key is None else homes(key, warm or open_ones))]:
            if self._loads[own].requests < most:
                return own
        return min(open_ones, key=self._busy)

    def _busy(self, replica: int) -> tuple[bool, bool, int, int, int]:
        load = self._loads[replica]
        return load.requests >= self.full, load.cold, load.tokens, load.requests, replica


def homes(key: bytes, replicas: Collection[int]) -> list[int]:
    """Return these replicas in the order of a key, which is another one for each key."""

    def rank(replica: int) -> bytes:
        return blake2b(key, digest_size=8, salt=replica.to_bytes(8, "big")).digest()

    return sorted(replicas, key=rank, reverse=True)


def home(key: bytes, replicas: Collection[int]) -> int:
    """Return the replica of a key among these."""
    return homes(key, replicas)[0]
