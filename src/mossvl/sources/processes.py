"""Loads media in decoder processes: a file that crashes its decoder or fills its memory fails only its own request.

A decoder process loads for one request at a time, with `sources.files.Load`, and sends its events through a pipe. It
has no model and uses no GPU. A process that dies, or whose request is cancelled, is replaced. Each request begins with
a greeting, so that a process that died while idle fails no request.
"""

import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch

from mossvl.disk import OwnFolder
from mossvl.errors import EngineError, GenerationCancelled, GenerationTimeout, MediaError, MossVLError, ResourceError
from mossvl.processing import crew
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.query import Message, Query
from mossvl.sources import fork_server
from mossvl.sources.decoder import nothing, send, serve
from mossvl.sources.memory import Budget
from mossvl.sources.semaphore import PrioritySemaphore
from mossvl.sources.source import Frame, Loaded, Loading, Planned, Stalled, Waiting

T = TypeVar("T")


@dataclass
class Worker:
    """A decoder process.

    Attributes:
        folder: the process's temporary files.
        idle: whether the process has answered its last request, and can take another.
        proven: whether the process has ever answered a greeting.
    """

    process: Any
    pipe: Connection
    folder: str
    idle: bool = True
    killed: bool = False
    proven: bool = False

    def greet(self) -> None:
        """Send a greeting.

        Raises:
            OSError: the process is dead.
        """
        send(self.pipe, (nothing, ()))

    def greeted(self, timeout: float) -> None:
        """Wait for the answer to the greeting.

        Raises:
            EOFError, OSError: the process is dead.
            GenerationTimeout: the process has not answered within `timeout` seconds.
        """
        if not self.pipe.poll(timeout):
            raise GenerationTimeout(f"a process that decodes media did not answer within {timeout:g} seconds")
        self.pipe.recv()
        self.proven = True


class LoadingProcesses:
    """A pool of decoder processes, for any number of requests.

    Args:
        processor: makes prompts and pixels; its limits apply in the processes.
        count: number of processes; further requests wait.
        memory: bytes that each process may use beyond its memory at start.
        budget: limit on pixels that wait for the engine.
    """

    def __init__(self, processor: MossVLProcessor, count: int, memory: int, budget: Budget) -> None:
        self.processor, self.count, self.memory, self.budget = processor, count, memory, budget
        self._context = fork_server.context()
        self._given = pickle.dumps(processor)
        self._folder = OwnFolder("mossvl-media-")
        self._free = PrioritySemaphore(count)
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    @property
    def threads(self) -> int:
        """Threads for a process that begins to load: its fair share."""
        return max(1, crew.threads() // max(1, self.count - self._free.value))

    def load(self, query: Query, messages: list[Message], priority: int = 0) -> "RemoteLoad":
        """Return a source of a query's prompt and pixels; `priority` is that of `SamplingParams`."""
        return RemoteLoad(self, query, messages, priority)

    def call(self, function: Callable[..., T], *arguments: Any, timeout: float) -> "RemoteCall[T]":
        """Return a call, in a process, of a module's function with the processor and these arguments."""
        return RemoteCall(self, function, arguments, timeout)

    def warm_up(self, timeout: float) -> None:
        """Start all processes, and wait until they answer.

        Raises:
            GenerationTimeout: a process has not answered within `timeout` seconds.
            ResourceError: a process cannot be started.
        """
        workers = [self.take() for _ in range(self.count)]
        try:
            for worker in workers:
                worker.greet()
            for worker in workers:
                worker.greeted(timeout)
        except (EOFError, OSError) as error:
            if isinstance(error, MossVLError):  # GenerationTimeout is an OSError, too.
                raise
            raise _not_started() from error
        finally:
            for worker in workers:
                self.give_back(worker)

    def close(self) -> None:
        """End idle processes, and others after their requests; refuse further requests."""
        with self._lock:
            self._closed = True
            workers, self._idle = self._idle, []
        for worker in workers:
            end(worker)
        self._folder.close()

    def take(self, priority: int = 0, check: Callable[[], None] = lambda: None) -> Worker:
        """Wait for an idle process, or start one; an idle process may have died.

        Args:
            priority: the lowest one that waits is served first, FIFO among equals.
            check: called while none is idle; raises an error to stop waiting.

        Raises:
            EngineError: the server is stopping.
            ResourceError: a process cannot be started.
        """
        self._free.acquire(priority, check)
        with self._lock:
            if self._closed:
                self._free.release()
                raise EngineError("the server is stopping")
            worker = self._idle.pop() if self._idle else None
        if worker is not None:
            return worker
        try:
            return self._start()
        except BaseException as error:
            self._free.release()
            if isinstance(error, OSError):
                raise _not_started() from error
            raise

    def give_back(self, worker: Worker) -> None:
        """Return a process to the pool, or end it if it cannot take another request."""
        with self._lock:
            keep = worker.idle and not worker.killed and not self._closed and worker.process.is_alive()
            if keep:
                self._idle.append(worker)
        if not keep:
            end(worker)
        self._free.release()

    def _start(self) -> Worker:
        with ExitStack() as undo:
            folder = tempfile.mkdtemp(dir=self._folder.path)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            here, there = self._context.Pipe()
            undo.enter_context(here)
            with there:
                given = (there, self._given, self.memory, folder)
                process = self._context.Process(target=serve, args=given, daemon=True)
                process.start()
            undo.pop_all()
        return Worker(process, here, folder)


def _not_started() -> ResourceError:
    return ResourceError(
        "a process that decodes media cannot be started; the machine has too little memory or disk space, or too many "
        "processes or open files"
    )


class Errand:
    """A request to a process. Any thread may end it, which kills the process.

    Args:
        patience: seconds within which a process must answer a greeting.
        priority: of the wait for a process.
    """

    def __init__(self, processes: LoadingProcesses, patience: float, priority: int = 0) -> None:
        self._processes, self._patience, self._priority = processes, patience, priority
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._over = False

    def end(self) -> None:
        """Cancel the errand, and kill the process that serves it."""
        with self._lock:
            self._over = True
            if self._worker is not None and not self._worker.idle:
                self._worker.killed = True  # An answer may still come, and the process look idle and alive.
                self._worker.process.kill()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A process for the errand; it is replaced unless the caller has set `idle` at the end.

        Raises:
            EngineError: the server is stopping.
            GenerationCancelled: the errand was ended.
            GenerationTimeout: the process did not answer a greeting.
            MediaError: the process has died.
            ResourceError: a process cannot be started.
        """
        while (worker := self._living()) is None:
            pass
        try:
            yield worker
        except MossVLError:  # GenerationTimeout is an OSError, too.
            raise
        except (EOFError, OSError) as error:
            self._check()
            raise MediaError(
                "the process that decoded the media has died: a file is broken, or needs more memory than is allowed"
            ) from error
        finally:
            self._leave(worker)

    def _living(self) -> Worker | None:
        """Take a process and greet it; return None if the process died while idle.

        A new process that is dead is an error, so that None is returned at most once for each idle process.
        """
        worker = self._processes.take(self._priority, self._check)
        proven, worker.idle = worker.proven, False
        try:
            with self._lock:
                self._worker = worker
                self._check()
            worker.greet()
            worker.greeted(self._patience)
            return worker
        except BaseException as error:
            self._leave(worker)
            if isinstance(error, MossVLError) or not isinstance(error, EOFError | OSError):
                raise
            self._check()
            if not proven:
                raise _not_started() from error
            return None

    def _leave(self, worker: Worker) -> None:
        with self._lock:
            self._worker = None
        self._processes.give_back(worker)

    def _check(self) -> None:
        if self._over:
            raise GenerationCancelled("loading was stopped")


class RemoteCall(Generic[T]):
    """A function call in a decoder process."""

    def __init__(
        self, processes: LoadingProcesses, function: Callable[..., T], arguments: tuple[Any, ...], timeout: float
    ) -> None:
        self._errand, self._function, self._arguments = Errand(processes, timeout), function, arguments
        self._timeout = timeout

    def stop(self) -> None:
        """Cancel the call."""
        self._errand.end()

    def run(self) -> T:
        """Call the function, and return its value.

        Raises:
            GenerationCancelled: the call was stopped.
            GenerationTimeout: the call has exceeded its `timeout`.
            MediaError: the process has died.
            MossVLError: the function has failed.
        """
        with self._errand.worker() as worker:
            send(worker.pipe, (self._function, self._arguments))
            if not worker.pipe.poll(self._timeout):
                raise GenerationTimeout(f"reading the media took more than {self._timeout:g} seconds")
            given, error = worker.pipe.recv()
            worker.idle = True
        if error is not None:
            raise error
        return given


class RemoteLoad(Loading):
    """A source that loads in a decoder process; its thread forwards the process's events."""

    def __init__(self, processes: LoadingProcesses, query: Query, messages: list[Message], priority: int = 0) -> None:
        super().__init__(processes.processor, processes.budget)
        self._processes, self.query, self.messages = processes, query, messages
        self._errand = Errand(processes, self.patience, priority)
        self._digests: list[bytes | None] = []

    def stop(self) -> None:
        """Stop the source, and kill a process that still loads for it."""
        super().stop()
        self._errand.end()

    def _load(self, first: int | None) -> None:
        """Load in a process, and report its events.

        Raises:
            MediaError: the process has died.
            MossVLError: loading has failed.
        """
        self._report(Stalled())  # No time-out until a process is free.
        with self._errand.worker() as worker:
            self._report(Waiting())
            send(worker.pipe, (None, (self.query, self.messages, first, self._digests, self._processes.threads)))
            while True:
                event, size = worker.pipe.recv()
                if isinstance(event, Loaded):
                    worker.idle = True
                    break
                if isinstance(event, Planned):
                    self._digests = list(event.digests)
                if isinstance(event, Frame):
                    self._digests[event.number] = event.digest
                if isinstance(event, Frame) and size:
                    patches = torch.frombuffer(bytearray(worker.pipe.recv_bytes()), dtype=torch.uint8)
                    event = replace(event, patches=patches.view(*event.patches.shape[:1], -1))
                    self.budget.take(self, event.patches.nbytes, lambda: self._report(Stalled()))
                self._report(event)
        if event.error is not None:
            raise event.error


def end(worker: Worker) -> None:
    """Kill a process, and delete its temporary files."""
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()
    worker.process.close()  # Its descriptors, which a traceback could keep open.
    shutil.rmtree(worker.folder, ignore_errors=True)
