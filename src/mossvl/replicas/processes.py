"""Processes of replicas: started, watched, restarted when they die, and ended with the process that started them."""

import atexit
import logging
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mossvl.environment import environment
from mossvl.errors import EngineError, MossVLError, message_of
from mossvl.replicas.beats import BEAT
from mossvl.replicas.living import ALIVE, FAILED, run_target
from mossvl.replicas.replica import Patience, Replica, State, Watcher
from mossvl.replicas.shares import Share
from mossvl.replicas.starting import without_main

logger = logging.getLogger("mossvl.replicas")

LATE = 2 * BEAT
"""Seconds after which this process, if it wakes so late, takes itself to have been stopped."""
AFTER_FAILURE = 1.0
"""Seconds until replicas are watched again after something unexpected has failed."""
UNREGISTERED = "MOSSVL_UNREGISTERED"
"""The variable by which a replica's process knows that importing this package is to register nothing."""


class Replicas:
    """Processes that each run `target(pipe, number, *arguments)`: one for each share of the machine.

    The target calls `tell_ready` once; what else it sends and receives is between it and the watcher. It ends at
    SIGTERM, and at the latest `Patience.stop` seconds later. A process that dies is started again. What the target
    raises before it is ready, if it is a MossVLError of the input or machine, is final: the replica is given up.

    Args:
        target: a function of a module. The environment says what the replica's share is before anything is imported.
            Transformers' Auto classes know nothing of MOSS-VL in the process until `mossvl.registration.register`, so
            that a target that needs neither them nor PyTorch starts at once.
    """

    def __init__(
        self,
        target: Callable[..., None],
        arguments: tuple[Any, ...],
        shares: Sequence[Share],
        watcher: Watcher,
        patience: Patience | None = None,
    ) -> None:
        self.all = [Replica(number, share) for number, share in enumerate(shares)]
        self._target, self._arguments, self._watcher = target, arguments, watcher
        self._patience = patience or Patience()
        self._context = multiprocessing.get_context("spawn")
        self._asked: deque[Callable[[], None]] = deque()
        self._woken, self._wake = self._context.Pipe(duplex=False)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mossvl-replicas", daemon=True)

    def start(self) -> None:
        """Start all processes; the watcher is told when they are ready."""
        for replica in self.all:
            replica.due = time.monotonic()
        atexit.register(self.close)  # Python would wait for the processes at exit.
        self._thread.start()

    def restart(self, number: int) -> None:
        """End a replica's process with SIGTERM, and start another at once; one that is given up is tried again."""
        self._ask(lambda: self._stop(self.all[number]))

    def kill(self, number: int) -> None:
        """Kill a replica's process, which does not answer; another is started."""
        self._ask(lambda: self._kill(self.all[number]))

    def give_up(self, number: int, error: MossVLError) -> None:
        """End a replica's process, and start no other."""
        self._ask(lambda: self._give_up(self.all[number], error))

    def close(self) -> None:
        """End all processes, with SIGTERM and then SIGKILL; return when there are none."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            self._ask(self._end_all)
            if threading.current_thread() is not self._thread:
                self._thread.join()

    # --- in the thread -------------------------------------------------------------------------------------------

    def _ask(self, work: Callable[[], None]) -> None:
        self._asked.append(work)
        with suppress(OSError):  # The thread has ended.
            self._wake.send_bytes(b"")

    def _run(self) -> None:
        try:
            while not self._closing or any(replica.process is not None for replica in self.all):
                try:
                    self._step()
                except Exception:  # A bug, which must not leave replicas unwatched.
                    logger.exception("the watching of replicas has failed, and goes on")
                    if self._closing:
                        self._kill_all()
                        return
                    time.sleep(AFTER_FAILURE)
        finally:
            self._woken.close()
            self._wake.close()

    def _step(self) -> None:
        """Wait until something happens or is due, and do what follows."""
        living = {one.process.sentinel: one for one in self.all if one.process is not None}
        telling = {one.pipe: one for one in self.all if one.state is State.STARTING and one.pipe is not None}
        due = min((one.due for one in self.all if one.due is not None), default=None)
        asked = time.monotonic()
        timeout = math.inf if due is None else max(0.0, due - asked)
        happened = set(wait([self._woken, *telling, *living], None if due is None else timeout))
        if time.monotonic() - asked > timeout + LATE:  # This process was stopped, and maybe the others with it.
            for replica in telling.values():
                self._lives(replica)
        if self._woken in happened:
            self._woken.recv_bytes()
        while self._asked:
            self._asked.popleft()()
        for pipe, replica in telling.items():
            if pipe in happened and replica.pipe is pipe and replica.state is State.STARTING:
                self._hear(replica, pipe)
        for sentinel, replica in living.items():
            if sentinel in happened:
                self._bury(replica)
        for replica in self.all:
            if replica.due is not None and replica.due <= time.monotonic():
                self._due(replica)

    def _due(self, replica: Replica) -> None:
        replica.due = None
        if replica.process is not None:  # It was not ready, or did not end, in time.
            if replica.state is State.STARTING:
                over = time.monotonic() - replica.begun >= self._patience.ready
                told = "was not ready within" if over else "gave no sign of life for"
                replica.why = f"{told} {self._patience.ready if over else self._patience.silent:g} seconds"
            self._kill(replica)
        elif not self._closing:
            self._begin(replica)

    def _begin(self, replica: Replica) -> None:
        """Start a replica's process."""
        replica.starts, replica.state, replica.why = replica.starts + 1, State.STARTING, ""
        here: Connection | None = None
        try:
            here, there = self._context.Pipe()
            with there, environment(replica.share.environment | {UNREGISTERED: "1"}), without_main():
                given = there, replica.number, pickle.dumps((self._target, self._arguments))
                name = f"mossvl-replica-{replica.number}"
                process = self._context.Process(target=run_target, args=given, name=name)
                process.start()
        except Exception as error:
            if here is not None:
                here.close()
            if isinstance(error, OSError):  # As where this process has too many files open.
                self._died(replica, f"{replica} could not be started ({error})")
            else:  # Its arguments cannot be pickled.
                self._give_up(replica, EngineError(f"{replica} cannot be started: {message_of(error)}"))
            return
        replica.process, replica.pipe, replica.begun = process, here, time.monotonic()
        self._lives(replica)

    def _lives(self, replica: Replica) -> None:
        """A process that is not ready has given a sign of life, or may have."""
        replica.due = min(replica.begun + self._patience.ready, time.monotonic() + self._patience.silent)

    def _hear(self, replica: Replica, pipe: Connection) -> None:
        """Read what a starting process tells: that it lives, that it is ready, or why it will not be."""
        try:
            kind, told = pipe.recv()
        except (EOFError, OSError):  # It dies.
            pipe.close()
            replica.pipe = None
            return
        if kind == ALIVE:
            self._lives(replica)
            return
        if kind == FAILED:
            self._give_up(replica, told)
            return
        replica.state, replica.due, replica.info, replica.pipe = State.READY, None, told, None
        replica.since = time.monotonic()
        self._tell(lambda: self._watcher.ready(replica, pipe))

    def _bury(self, replica: Replica) -> None:
        """A replica's process has ended."""
        process = replica.process
        assert process is not None
        while replica.state is State.STARTING and replica.pipe is not None and replica.pipe.poll():
            self._hear(replica, replica.pipe)  # Its last words.
        _end_group(process)  # Before its id may be another's.
        process.join()
        reason = f"{replica} {replica.why or _ending(process.exitcode)}"
        process.close()
        if replica.pipe is not None:
            replica.pipe.close()
        was, replica.process, replica.pipe, replica.due, replica.info = replica.state, None, None, None, None
        if was in (State.STARTING, State.READY):
            self._died(replica, reason, was is State.READY)
            return
        if was is State.STOPPING:
            replica.state, replica.due = State.DOWN, None if self._closing else time.monotonic()
        self._tell(lambda: self._watcher.ended(replica, reason))

    def _died(self, replica: Replica, reason: str, was_ready: bool = False) -> None:
        """A replica's process has died unasked: start another after a pause, or give the replica up."""
        replica.state = State.DOWN
        early = not was_ready or time.monotonic() - replica.since < self._patience.steady
        replica.deaths = replica.deaths + 1 if early else 0
        replica.unready = 0 if was_ready else replica.unready + 1
        for count, most, when in (
            (replica.unready, self._patience.tries, "before they were ready"),
            (replica.deaths, self._patience.early, f"within {self._patience.steady:g} seconds of being ready"),
        ):
            if count >= most:
                message = f"{reason}; {count} of its processes in a row have died {when}"
                self._give_up(replica, EngineError(message))
                return
        replica.due = time.monotonic() + self._patience.pause(replica.deaths)
        self._tell(lambda: self._watcher.ended(replica, reason))

    def _give_up(self, replica: Replica, error: MossVLError) -> None:
        if replica.state is not State.GIVEN_UP:
            replica.due = None
            self._terminate(replica)
            replica.state = State.GIVEN_UP
            self._tell(lambda: self._watcher.given_up(replica, error))

    def _stop(self, replica: Replica) -> None:
        replica.deaths = replica.unready = 0
        if replica.process is None:
            replica.state, replica.due = State.DOWN, time.monotonic()
        elif replica.state is not State.STOPPING:
            self._terminate(replica)
            replica.state = State.STOPPING

    def _terminate(self, replica: Replica) -> None:
        """SIGTERM now, SIGKILL if that is not enough."""
        if replica.process is not None:
            with suppress(ProcessLookupError):
                replica.process.terminate()
            replica.due = time.monotonic() + self._patience.stop

    def _kill(self, replica: Replica) -> None:
        if replica.process is not None:
            _end_group(replica.process)
            replica.process.kill()

    def _kill_all(self) -> None:
        """Kill all processes, and wait for their ends."""
        for replica in self.all:
            self._kill(replica)
        for replica in self.all:
            if replica.process is not None:
                replica.process.join()

    def _tell(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # The other replicas are watched on.
            logger.exception("a watcher of replicas has failed")

    def _end_all(self) -> None:
        self._closing = True
        for replica in self.all:
            replica.due = None
            self._terminate(replica)
            if replica.state is not State.GIVEN_UP:
                replica.state = State.STOPPING if replica.process is not None else State.DOWN


def _ending(code: int | None) -> str:
    """Return how a process has ended, as a verb of it."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"has ended with exit code {code}"


def _end_group(process: BaseProcess) -> None:
    """Kill what a replica's process has started, and has left or would leave behind."""
    if hasattr(os, "killpg") and process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            if process.pid != os.getpgrp():
                os.killpg(process.pid, signal.SIGKILL)
