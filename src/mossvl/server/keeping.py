"""What clients have made and name by id: each belongs to an API key; limited in number, size and age.

The index is an SQLite database: in memory for a server of one process, or in a folder that several processes share,
which then find and remove each other's things. A process that dies leaves nothing half-kept: a change is a transaction,
and what it had reserved is released by the others.
"""

import json
import os
import sqlite3
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mossvl.disk import FREE_SPACE
from mossvl.errors import ResourceError
from mossvl.server.errors import RequestError

LOCK_SECONDS = 30.0
"""Seconds to wait for another process's change."""


@dataclass(kw_only=True)
class Kept:
    """Something that is kept for later requests; its fields are JSON values or paths.

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
OWN = ("id", "owner", "size", "created", "used")
"""Columns beside `rest`, the other fields as JSON, and `turn`, which orders all things by their last use."""
TABLES = """
CREATE TABLE IF NOT EXISTS kept (id TEXT PRIMARY KEY, owner TEXT, size INTEGER, created REAL, used REAL,
    turn INTEGER, rest TEXT);
CREATE INDEX IF NOT EXISTS turns ON kept (turn, size, used);
CREATE TABLE IF NOT EXISTS reserved (id TEXT PRIMARY KEY, process INTEGER, size INTEGER);
"""


class Store(ABC, Generic[K]):
    """Things of one kind; whoever asks for another key's is told that there is none.

    Args:
        space, count: most bytes of all together, and most of them; the least recently used are removed first.
        seconds: how long a thing is kept after its last use.
        folder: of the index, shared with other processes; None for an index in memory.
    """

    name: ClassVar[str]
    """Name of the index in its folder."""

    def __init__(self, space: int, seconds: float, count: int = sys.maxsize, folder: Path | None = None) -> None:
        self.space, self.seconds, self.count = space, seconds, count
        place = ":memory:" if folder is None else str(folder / f"{self.name}.sqlite")
        self._index = sqlite3.connect(place, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        self._index.execute("PRAGMA synchronous = OFF")  # Nothing is to outlive the machine.
        if folder is not None:
            self._index.execute("PRAGMA journal_mode = WAL")
        self._index.executescript(TABLES)
        self._lock = threading.Lock()
        self._unreleased: set[str] = set()
        """Ids whose reservation could not be given back yet."""

    @abstractmethod
    def missing(self, id: str, param: str | None) -> RequestError:
        """Return the refusal, with status 404, of a request that names what is not there (in its field `param`)."""

    @abstractmethod
    def restored(self, fields: dict[str, Any]) -> K:
        """Return a thing with the fields that were kept."""

    def removed(self, one: K) -> None:
        """Free what belongs to a thing that was removed."""

    def reserve(self, id: str, size: int) -> None:
        """Reserve bytes in all for a thing to come, for which the least recently used things are removed."""
        with self._changing():
            self._index.execute("REPLACE INTO reserved VALUES (?, ?, ?)", (id, os.getpid(), size))

    def release(self, id: str) -> None:
        """Give back what is reserved for a thing that does not come; if the disk is full, with `forget_old`."""
        self._unreleased.add(id)
        with suppress(ResourceError):
            self._release_all()

    def add(self, one: K) -> None:
        """Keep a thing, which must be no larger than all space; what was reserved for its id is released."""
        fields = asdict(one)
        values = [fields.pop(name) for name in OWN]
        rest = json.dumps(fields, default=os.fspath)
        with self._changing():
            self._index.execute("DELETE FROM reserved WHERE id = ?", (one.id,))
            given = (*values, self._next_turn(), rest)
            self._index.execute("REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)", given)

    def get(self, owner: str, id: str, param: str | None = None) -> K:
        """Return a thing and renew its time of last use, unless the disk is full.

        Args:
            param: the request's field that names it.

        Raises:
            RequestError: this key has none of this id, or it was removed.
        """
        used = time.time()
        named = "WHERE id = ? AND owner = ? AND used >= ?", id, owner, used - self.seconds
        with suppress(ResourceError), self._changing():
            where, *given = named
            self._index.execute(f"UPDATE kept SET used = ?, turn = ? {where}", (used, self._next_turn(), *given))
        with self._reading():
            found = self._found(*named)
        if not found:
            raise self.missing(id, param)
        return found[0]

    def of(self, owner: str) -> list[K]:
        """Return what a key has made, newest first."""
        with self._reading():
            since = time.time() - self.seconds
            return self._found("WHERE owner = ? AND used >= ? ORDER BY created DESC, turn DESC", owner, since)

    def remove(self, owner: str, id: str) -> None:
        """Remove a thing.

        Raises:
            RequestError: as `get`.
        """
        self._remove(self.get(owner, id))

    def _remove(self, one: K) -> None:
        with self._changing() as gone:
            if self._index.execute("DELETE FROM kept WHERE id = ?", (one.id,)).rowcount:
                gone.append(one)

    def forget_old(self) -> None:
        """Remove what has expired, and release what dead processes had reserved.

        Raises:
            ResourceError: the disk is full.
        """
        self._release_all()
        with self._changing():
            for (process,) in self._index.execute("SELECT DISTINCT process FROM reserved").fetchall():
                if not _lives(process):
                    self._index.execute("DELETE FROM reserved WHERE process = ?", (process,))

    def close(self) -> None:
        """Close the index; one in memory is gone then."""
        with self._lock:
            self._index.close()

    def _release_all(self) -> None:
        ids = list(self._unreleased)
        with self._changing():
            self._index.executemany("DELETE FROM reserved WHERE id = ?", [(id,) for id in ids])
        self._unreleased.difference_update(ids)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Within, the index is read, which needs no room on the disk.

        Raises:
            ResourceError: it cannot be read.
        """
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise ResourceError(f"the index of {self.name} cannot be read ({error})") from error

    @contextmanager
    def _changing(self) -> Iterator[list[K]]:
        """A transaction, at whose end what has expired or is too much is removed, with what the caller adds to it.

        A caller that refuses a request changes nothing but that: what has expired is removed all the same.

        Raises:
            ResourceError: the disk is full, or another process is stuck; nothing is changed.
        """
        gone: list[K] = []
        try:
            with self._lock:
                self._index.execute("BEGIN IMMEDIATE")
                try:
                    gone += self._expired()
                    yield gone
                    gone += self._surplus()
                except RequestError:
                    self._index.execute("COMMIT")
                    raise
                except BaseException:
                    gone.clear()
                    with suppress(sqlite3.Error):  # SQLite may have done so.
                        self._index.execute("ROLLBACK")
                    raise
                self._index.execute("COMMIT")
        except sqlite3.Error as error:
            gone.clear()
            with suppress(sqlite3.Error):
                self._index.execute("ROLLBACK")
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            advice = f": there is no room for temporary files; {FREE_SPACE}" if full else ""
            raise ResourceError(f"the index of {self.name} cannot be changed ({error}){advice}") from error
        finally:
            for one in gone:
                self.removed(one)

    def _expired(self) -> list[K]:
        """Remove from the index what has expired."""
        since = time.time() - self.seconds
        oldest = self._index.execute("SELECT used FROM kept ORDER BY turn LIMIT 1").fetchone()
        if oldest is None or oldest[0] >= since:
            return []
        gone = self._found("WHERE used < ?", since)
        self._index.execute("DELETE FROM kept WHERE used < ?", (since,))
        return gone

    def _surplus(self) -> list[K]:
        """Remove from the index the least recently used until the others fit, with what is reserved."""
        size, count = self._index.execute("SELECT coalesce(sum(size), 0), count(*) FROM kept").fetchone()
        size += self._index.execute("SELECT coalesce(sum(size), 0) FROM reserved").fetchone()[0]
        gone: list[K] = []
        while count > self.count or (count and size > self.space):
            (one,) = self._found("ORDER BY turn LIMIT 1")
            self._index.execute("DELETE FROM kept WHERE id = ?", (one.id,))
            size, count = size - one.size, count - 1
            gone.append(one)
        return gone

    def _found(self, where: str, *given: Any) -> list[K]:
        rows = self._index.execute(f"SELECT {', '.join(OWN)}, rest FROM kept {where}", given).fetchall()
        return [self.restored(dict(zip(OWN, row, strict=False)) | json.loads(row[-1])) for row in rows]

    def _next_turn(self) -> int:
        turn: int = self._index.execute("SELECT coalesce(max(turn), 0) + 1 FROM kept").fetchone()[0]
        return turn


def _lives(process: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
