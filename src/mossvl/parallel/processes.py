"""The processes of ranks 1 and up, as rank 0 sees them: starts, watches and ends them.

Each process has a pipe. Rank 0 sends what to do, and the process sends beats, that it is ready, or why it has failed
(`parallel.rank`). A process that has died, failed or fallen silent ends the whole group: ranks that wait for it in a
collective would wait for ever.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait

import torch

from mossvl import waits
from mossvl.errors import EngineError, MossVLError, message_of
from mossvl.parallel.collectives import CollectiveError

BEAT = waits.LOOK
"""Seconds between two beats of a process, and between two looks at them."""
SILENCE = 7.0
"""Seconds without a beat after which a process that was ready is taken to hang."""
START = 120.0
"""The same before a process is ready: what loads libraries and makes contexts of GPUs may keep it from beating."""
VERDICT = 0.3
"""Seconds in which further ranks tell why they failed: the first to tell may have failed because of another."""
LOST = 75
"""Exit code of a rank that ended because another one did."""
ALIVE, READY, FAILED = b".", b"+", b"!"
"""What a process sends; an error follows `FAILED`."""
PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from mossvl.parallel.rank import main; main(int(sys.argv[1]))"


def reason_of(error: BaseException) -> str:
    """Return why a rank has failed, for a user."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return (
            f"its memory did not suffice for a step, which ends all ranks ({' '.join(str(error).split()):.200}); leave "
            "less to the pages (memory), or lower max_pixels or max_frames"
        )
    return message_of(error)


@dataclass
class RankProcess:
    """The process of a rank.

    Attributes:
        heard: when it sent something last.
        ready: it has its part of the model, and waits for steps.
        reason: why it has failed, and how telling that is: the error of the group is that of the lowest rank of these.
    """

    number: int
    process: "subprocess.Popen[bytes]"
    pipe: Connection
    heard: float = field(default_factory=time.monotonic)
    ready: bool = False
    reason: tuple[int, str] | None = None
    error: MossVLError | None = None

    @classmethod
    def start(cls, number: int, given: bytes) -> "RankProcess":
        """Start a process, and send it what it needs to begin."""
        here, there = Pipe()
        with there:  # A new session keeps Ctrl-C from the process, which ends with its pipe.
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(there.fileno()), *sys.path],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        here.send_bytes(given)
        return cls(number, process, here)

    def hear(self) -> None:
        """Read what the process has sent."""
        try:
            while self.reason is None and self.pipe.poll():
                told = self.pipe.recv_bytes()
                self.heard = time.monotonic()
                if told == READY:
                    self.ready = True
                elif told[:1] == FAILED:
                    self.reason = 1, "has failed, and its error cannot be read"
                    error = pickle.loads(told[1:])
                    self.error = error if isinstance(error, MossVLError) else None
                    self.reason = 1, f"has failed: {error}"
        except (EOFError, OSError):
            self.reason = self._ending()

    def check_beat(self, now: float) -> None:
        """Take a process that is silent for too long to hang."""
        if self.reason is None and now - self.heard > (SILENCE if self.ready else START):
            self.reason = 0, f"hangs: it gave no sign of life for {now - self.heard:.0f} seconds"

    def _ending(self) -> tuple[int, str]:
        """How a process has ended whose pipe is closed."""
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return 2, "has closed its pipe"
        if code < 0:
            with suppress(ValueError):
                return 0, f"was killed by {signal.Signals(-code).name}"
        return (3, "has lost the others") if code == LOST else (2, f"has ended with exit code {code}")


class RankProcesses:
    """The processes of ranks 1 and up, with a thread that watches them.

    Args:
        given: what each process needs to begin.

    Attributes:
        failure: why the group has ended.
        abort: called once it has, to end collectives that wait.
        told: called with the failure, in another thread.
    """

    def __init__(self, given: Sequence[bytes]) -> None:
        self.failure: EngineError | None = None
        self.abort: Callable[[], None] = lambda: None
        self.told: list[Callable[[EngineError], None]] = []
        self._pid, self._own = os.getpid(), ""
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._changed = threading.Condition()
        self.waits = waits.Waits()
        """What this rank waits for the others in: if that takes too long, the group ends."""
        self._processes: list[RankProcess] = []
        try:
            for number, one in enumerate(given, 1):
                self._processes.append(RankProcess.start(number, one))
        except OSError as error:
            self.end()
            raise EngineError(f"the process of a rank cannot be started: {error}") from error
        threading.Thread(target=self._watch, name="mossvl-ranks", daemon=True).start()

    def tell(self, message: bytes) -> None:
        """Send a message to all processes.

        Raises:
            EngineError: the group has ended.
        """
        for one in self._processes:
            try:
                one.pipe.send_bytes(message)
            except OSError as error:
                raise self.verdict(error) from error

    def wait_until_ready(self) -> None:
        """Wait until all processes have their part of the model.

        Raises:
            MossVLError: a process has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None or all(one.ready for one in self._processes))
        if self.failure is not None:
            # A copy, here as elsewhere: a traceback would keep what it has seen, the ranks' owner among it.
            raise next((one.error for one in self._processes if one.error is not None), self.failure).plain()

    def unless_ended(self, work: Callable[[], None]) -> None:
        """Do what may wait for ever for a rank that is lost: in a thread, which is left alone if the group ends.

        Raises:
            EngineError: the group has ended, or the work has failed, which ends it.
        """
        errors: list[BaseException | None] = []

        def run() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:
                error = raised
            with self._changed:
                errors.append(error)
                self._changed.notify_all()

        threading.Thread(target=run, name="mossvl-joining", daemon=True).start()
        with self.waits.one(), self._changed:
            self._changed.wait_for(lambda: self.failure is not None or errors)
        self.check()
        if errors[0] is not None:
            raise self.verdict(errors[0]) from errors[0]

    def check(self) -> None:
        """Raise the failure of the group, if it has ended."""
        if self.failure is not None:
            raise self.failure.plain()

    def verdict(self, error: BaseException) -> EngineError:
        """The failure of the group, after an error of rank 0, which the end of another may have caused."""
        self._own = f": {error}" if self.caused(error) else ""
        if self.caused(error):
            with self._changed:
                self._changed.wait_for(lambda: self.failure is not None, 10 * VERDICT)
        self.fail(EngineError(f"rank 0 of {self._size} has failed: {reason_of(error)}"))
        assert self.failure is not None
        return self.failure.plain()

    @staticmethod
    def caused(error: BaseException) -> bool:
        """Whether the end of another rank may have caused an error of rank 0."""
        return isinstance(error, CollectiveError | OSError)

    def fail(self, failure: EngineError) -> None:
        """End the group, unless it has ended: kill all processes, and end collectives that wait for them."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = failure
        self._kill()
        with self._changed:
            self._changed.notify_all()
        for told in self.told:
            told(failure)
        self.abort()  # Before the processes are waited for: their GPUs may wait for this one's.
        self._reap()

    def end(self) -> None:
        """End all processes; in a process forked from the one that started them, only close the pipes."""
        self._ended.set()
        with self._lock:
            self.failure = self.failure or EngineError("the processes of this model's ranks have been ended")
        with self._changed:
            self._changed.notify_all()
        if os.getpid() == self._pid:
            self._kill()
            self._reap()
        for one in self._processes:
            one.pipe.close()

    @property
    def _size(self) -> int:
        return len(self._processes) + 1

    def _kill(self) -> None:
        for one in self._processes:
            one.process.kill()

    def _reap(self) -> None:
        for one in self._processes:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(5.0)

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                wait([one.pipe for one in self._processes if one.reason is None], BEAT)
            except (OSError, ValueError):  # The group is being ended.
                return
            now = time.monotonic()
            if self.waits.look():  # Beats may wait to be read.
                for one in self._processes:
                    one.heard = max(one.heard, now - BEAT)
            for one in self._processes:
                one.hear()
                one.check_beat(now)
            with self._changed:
                self._changed.notify_all()
            if any(one.reason for one in self._processes):
                self._judge()
                return
            if self.waits.hangs:
                told = f"a step of {self._size} ranks has not ended within {waits.STEP:.0f} seconds: one of them hangs"
                self.fail(EngineError(told))
                return

    def _judge(self) -> None:
        """End the group with the reason that tells most, of those that are told soon."""
        until = time.monotonic() + VERDICT
        while (left := until - time.monotonic()) > 0:
            wait([one.pipe for one in self._processes if one.reason is None], left)
            for one in self._processes:
                one.hear()
        first = min((one for one in self._processes if one.reason), key=lambda one: one.reason or (9, ""))
        assert first.reason is not None
        level, reason = first.reason
        own = self._own if level == 3 else ""  # Nothing else tells why, as where NCCL cannot begin.
        self.fail(EngineError(f"rank {first.number} of {self._size} (process {first.process.pid}) {reason}{own}"))
