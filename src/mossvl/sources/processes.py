"""Media are loaded in processes of their own: a file that kills its decoder or fills its memory costs its request only.

Each process loads for one request at a time, with `sources.files.Load`, and sends what that reports through a pipe. It
has no model and sees no GPU. One that dies, or whose request is given up, is replaced. A process is greeted before it
is given anything: one that died while it had nothing to do costs no request.
"""

import multiprocessing
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

from mossvl.errors import EngineError, GenerationCancelled, GenerationTimeout, MediaError, MossVLError, ResourceError
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.query import Message, Query
from mossvl.sources.decoder import nothing, serve
from mossvl.sources.memory import Budget
from mossvl.sources.source import Frame, Loaded, Loading, Planned, Stalled, Waiting

T = TypeVar("T")


@dataclass
class Worker:
    """A process that loads.

    Attributes:
        folder: of its own, for files that it needs for a time.
        whole: it has done all that it was asked to do, and can be asked again.
        proven: it has answered a greeting once.
    """

    process: Any
    pipe: Connection
    folder: str
    whole: bool = True
    killed: bool = False
    proven: bool = False

    def greet(self) -> None:
        """Ask whether it is there.

        Raises:
            OSError: it is dead.
        """
        self.pipe.send((nothing, ()))

    def greeted(self, timeout: float) -> None:
        """Wait until it has answered the greeting.

        Raises:
            EOFError, OSError: it is dead.
            GenerationTimeout: it has not answered within `timeout` seconds.
        """
        if not self.pipe.poll(timeout):
            raise GenerationTimeout(f"a process that decodes media did not answer within {timeout:g} seconds")
        self.pipe.recv()
        self.proven = True


class LoadingProcesses:
    """Processes that load media, for any number of requests.

    Args:
        processor: makes prompts and pixels; its limits hold in the processes.
        count: how many there are; further requests wait.
        memory: bytes that each may use beyond what it has at its start.
        budget: bytes of pixels that may wait for the engine.
    """

    def __init__(self, processor: MossVLProcessor, count: int, memory: int, budget: Budget) -> None:
        self.processor, self.count, self.memory, self.budget = processor, count, memory, budget
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._given = pickle.dumps(processor)
        self._folder = tempfile.TemporaryDirectory(prefix="mossvl-media-", ignore_cleanup_errors=True)
        self._free = threading.Semaphore(count)
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def load(self, query: Query, messages: list[Message]) -> "RemoteLoad":
        """The source of a query's prompt and pixels."""
        return RemoteLoad(self, query, messages)

    def call(self, function: Callable[..., T], *arguments: Any, timeout: float) -> "RemoteCall[T]":
        """A function of a module, to be called in a process with the processor and these arguments."""
        return RemoteCall(self, function, arguments, timeout)

    def warm_up(self, timeout: float) -> None:
        """Start all processes, and wait until they can work.

        Raises:
            GenerationTimeout: they cannot within `timeout` seconds.
            ResourceError: one cannot be started.
        """
        workers = [self.take() for _ in range(self.count)]
        try:
            for worker in workers:
                worker.greet()
            for worker in workers:
                worker.greeted(timeout)
        except (EOFError, OSError) as error:
            if isinstance(error, MossVLError):  # A time-out is an OSError, too.
                raise
            raise _not_started() from error
        finally:
            for worker in workers:
                self.give_back(worker)

    def close(self) -> None:
        """End all processes; loads that run fail."""
        with self._lock:
            self._closed = True
            workers, self._idle = self._idle, []
        for worker in workers:
            end(worker)
        self._folder.cleanup()

    def take(self) -> Worker:
        """A process that is free; waits for one. It may have died while it had nothing to do.

        Raises:
            EngineError: the server is stopping.
            ResourceError: a process cannot be started.
        """
        self._free.acquire()
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
        """A process is not needed any more."""
        with self._lock:
            keep = worker.whole and not worker.killed and not self._closed and worker.process.is_alive()
            if keep:
                self._idle.append(worker)
        if not keep:
            end(worker)
        self._free.release()

    def _start(self) -> Worker:
        with ExitStack() as undo:
            folder = tempfile.mkdtemp(dir=self._folder.name)
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
    """What a process is asked to do; ended from any thread, together with the process.

    Args:
        patience: seconds within which a process must answer a greeting.
    """

    def __init__(self, processes: LoadingProcesses, patience: float) -> None:
        self._processes, self._patience = processes, patience
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._over = False

    def end(self) -> None:
        with self._lock:
            self._over = True
            if self._worker is not None and not self._worker.whole:
                self._worker.killed = True  # Before it is dead, it could be taken for one that is whole.
                self._worker.process.kill()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A process; whoever has it says whether it is `whole` at the end, or it is replaced.

        Raises:
            GenerationCancelled: the errand was ended.
            GenerationTimeout: the process did not answer.
            MediaError: the process has died.
            ResourceError: there is no process, and none can be started.
        """
        while (worker := self._living()) is None:
            pass
        try:
            yield worker
        except MossVLError:  # A time-out is an OSError, too.
            raise
        except (EOFError, OSError) as error:
            self._check()
            raise MediaError(
                "the process that decoded the media has died: a file is broken, or needs more memory than is allowed"
            ) from error
        finally:
            self._leave(worker)

    def _living(self) -> Worker | None:
        """A process that has just answered; None if the one that was taken had died while it had nothing to do.

        None comes at most as often as there are such processes: one that was just started and is dead is an error.
        """
        worker = self._processes.take()
        proven, worker.whole = worker.proven, False
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
    """A function's call in a process."""

    def __init__(
        self, processes: LoadingProcesses, function: Callable[..., T], arguments: tuple[Any, ...], timeout: float
    ) -> None:
        self._errand, self._function, self._arguments = Errand(processes, timeout), function, arguments
        self._timeout = timeout

    def stop(self) -> None:
        """Nobody waits for it any more."""
        self._errand.end()

    def run(self) -> T:
        """What the function gives.

        Raises:
            GenerationCancelled: the call was stopped.
            GenerationTimeout: it took too long.
            MediaError: the process has died.
            MossVLError: what the function failed of.
        """
        with self._errand.worker() as worker:
            worker.pipe.send((self._function, self._arguments))
            if not worker.pipe.poll(self._timeout):
                raise GenerationTimeout(f"reading the media took more than {self._timeout:g} seconds")
            given, error = worker.pipe.recv()
            worker.whole = True
        if error is not None:
            raise error
        return given


class RemoteLoad(Loading):
    """Has a process load; its thread does nothing but wait for what that says."""

    def __init__(self, processes: LoadingProcesses, query: Query, messages: list[Message]) -> None:
        super().__init__(processes.processor, processes.budget)
        self.query, self.messages = query, messages
        self._errand = Errand(processes, self.patience)
        self._digests: list[bytes | None] = []

    def stop(self) -> None:
        """A process that still loads is ended."""
        super().stop()
        self._errand.end()

    def _load(self, first: int | None) -> None:
        """Have a process load, and report what it says.

        Raises:
            MediaError: the process has died.
            MossVLError: what it failed of.
        """
        self._report(Stalled())  # Until a process is free, nobody should lose patience.
        with self._errand.worker() as worker:
            self._report(Waiting())
            worker.pipe.send((None, (self.query, self.messages, first, self._digests)))
            while True:
                event, size = worker.pipe.recv()
                if isinstance(event, Loaded):
                    worker.whole = True
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
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()
    worker.process.close()  # Its descriptors, which would stay open as long as an error's traceback knows of it.
    shutil.rmtree(worker.folder, ignore_errors=True)
