"""A replica: where it is in its life, how long it is waited for, and who is told of it."""

from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from mossvl.errors import MossVLError
from mossvl.replicas.shares import Share


class State(StrEnum):
    """Where a replica is in its life.

    STARTING: its process runs, and is not ready; READY; STOPPING: its process has been asked to end; DOWN: it has no
    process, and will be started; GIVEN_UP: it will not be.
    """

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DOWN = "down"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class Patience:
    """How long replicas are waited for, in seconds, and how often they are started.

    Attributes:
        ready: from a process's start until it is ready; a process that takes longer is killed.
        silent: without a sign of life of a process that is not ready; then it is killed. What loads libraries and makes
            contexts of GPUs may keep a process from giving one.
        first, most: between a death and the next start; the first wait, which doubles with each early death until it is
            the longest.
        steady: from readiness; the death of a process before it is an early one.
        tries: processes that may die in a row before they are ready; then the replica is given up.
        early: processes that may die an early death in a row, ready or not; then the replica is given up.
        stop: between SIGTERM and SIGKILL.
    """

    ready: float = 3600.0
    silent: float = 120.0
    first: float = 1.0
    most: float = 30.0
    steady: float = 30.0
    tries: int = 5
    early: float = 10
    stop: float = 45.0

    def pause(self, deaths: int) -> float:
        """Return how long to wait before the next start, after so many early deaths in a row."""
        return min(self.most, self.first * 2.0 ** min(max(0, deaths - 1), 60))


@dataclass
class Replica:
    """A replica and its process.

    Attributes:
        number: from 0; stays the same when its process is another.
        starts: processes that were started.
        deaths: processes in a row that died early.
        unready: the last ones of these that were never ready.
        since: when the process became ready, by `time.monotonic`.
        due: when the next process is to be started, or this one killed, by `time.monotonic`.
        info: what the process told of itself when it was ready.
        begun: when the process was started, by `time.monotonic`.
        why: why this process is killed, as a predicate; "" if it is not, or if that was told.
        pipe: to the process, until it is ready.
    """

    number: int
    share: Share
    state: State = State.DOWN
    starts: int = 0
    deaths: int = 0
    unready: int = 0
    since: float = 0.0
    due: float | None = None
    info: Any = None
    begun: float = 0.0
    why: str = ""
    pipe: Connection | None = None
    process: BaseProcess | None = None

    def __str__(self) -> str:
        return f"replica {self.number}"


class Watcher(Protocol):
    """What is told of replicas, in the thread that watches them."""

    def ready(self, replica: Replica, pipe: Connection) -> None:
        """The replica's process is ready; the pipe to it is the watcher's from now on, which also closes it."""

    def ended(self, replica: Replica, reason: str) -> None:
        """The replica's process has ended, as asked or not; `reason` has subject and verb."""

    def given_up(self, replica: Replica, error: MossVLError) -> None:
        """The replica will not be started again."""
