"""Media are loaded in processes of their own: a file that kills its decoder or fills its memory costs its request only.

Each process loads for one request at a time, with `engine.media.Load`, and sends what that reports through a pipe. It
has no model and sees no GPU. One that dies, or whose request is given up, is replaced.
"""

import multiprocessing
import pickle
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from mossvl.engine.media import Event, Frame, Load, Loaded, Loading
from mossvl.engine.media_memory import Budget, MediaMemory
from mossvl.engine.query import Message, Query
from mossvl.errors import EngineError, GenerationTimeout, MediaError, MossVLError
from mossvl.processing.processor import MossVLProcessor

T = TypeVar("T")

REMEMBERED = 256
"""Clips whose frames' digests a process remembers."""
LIBRARIES = ("av", "av.subtitles.stream")
"""What would be loaded with the first file."""


DIED = "the process that decoded the media has died: a file is broken, or needs more memory than is allowed"


@dataclass
class Worker:
    """A process that loads."""

    process: Any
    pipe: Connection


class LoadingProcesses:
    """Processes that load media, for any number of requests.

    Args:
        processor: makes prompts and pixels; its limits hold in the processes.
        count: how many there are; further requests wait.
        memory: bytes that each may use beyond what it has at its start.
        budget: bytes of pixels that may wait for the engine.
    """

    def __init__(self, processor: MossVLProcessor, count: int, memory: int, budget: Budget) -> None:
        self.processor, self.memory, self.budget = processor, memory, budget
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._given = pickle.dumps(processor)
        self._free = threading.Semaphore(count)
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def load(self, query: Query, messages: list[Message]) -> "RemoteLoad":
        """The source of a query's prompt and pixels."""
        return RemoteLoad(self, query, messages)

    def call(self, function: Callable[..., T], *arguments: Any, timeout: float) -> T:
        """What a function of a module gives, called in a process with the processor and these arguments.

        Raises:
            GenerationTimeout: it did not come within `timeout` seconds; its process is ended.
            MediaError: the process has died.
            MossVLError: what the function failed of.
        """
        worker, whole = self.take(), False
        try:
            worker.pipe.send((function, arguments))
            if not worker.pipe.poll(timeout):
                raise GenerationTimeout(f"reading the media took more than {timeout:g} seconds")
            given, error = worker.pipe.recv()
            whole = True
            if error is not None:
                raise error
            return given
        except (EOFError, OSError) as error:
            raise MediaError(DIED) from error
        finally:
            self.give_back(worker, whole)

    def close(self) -> None:
        """End all processes; loads that run fail."""
        with self._lock:
            self._closed = True
            workers, self._idle = self._idle, []
        for worker in workers:
            end(worker)

    def take(self) -> Worker:
        """A process that is free; waits for one."""
        self._free.acquire()
        with self._lock:
            if self._closed:
                self._free.release()
                raise EngineError("the server is stopping")
            if self._idle:
                return self._idle.pop()
        try:
            return self._start()
        except BaseException:
            self._free.release()
            raise

    def give_back(self, worker: Worker, whole: bool) -> None:
        """A process is not needed any more; `whole` if it waits for the next request."""
        with self._lock:
            keep = whole and not self._closed and worker.process.is_alive()
            if keep:
                self._idle.append(worker)
        if not keep:
            end(worker)
        self._free.release()

    def _start(self) -> Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=serve, args=(there, self._given, self.memory), daemon=True)
        process.start()
        there.close()
        return Worker(process, here)


class RemoteLoad(Loading):
    """Has a process load; its thread does nothing but wait for what that says."""

    def __init__(self, processes: LoadingProcesses, query: Query, messages: list[Message]) -> None:
        super().__init__(processes.processor, processes.budget)
        self.processes, self.query, self.messages = processes, query, messages
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def stop(self) -> None:
        """A process that still loads is ended."""
        super().stop()
        with self._lock:
            if self._worker is not None:
                self._worker.process.kill()

    def _load(self, first: int | None) -> None:
        """Have a process load, and report what it says.

        Raises:
            MediaError: the process has died.
            MossVLError: what it failed of.
        """
        worker, whole = self.processes.take(), False
        try:
            with self._lock:
                self._worker = worker
            self.check()
            worker.pipe.send((None, (self.query, self.messages, first)))
            while True:
                event, size = worker.pipe.recv()
                if isinstance(event, Loaded):
                    whole = True
                    if event.error is not None:
                        raise event.error
                    return
                if isinstance(event, Frame) and size:
                    patches = torch.frombuffer(bytearray(worker.pipe.recv_bytes()), dtype=torch.uint8)
                    event = replace(event, patches=patches.view(*event.patches.shape[:1], -1))
                    self.budget.take(self, event.patches.nbytes, lambda: None)
                self._report(event)
        except (EOFError, OSError) as error:
            self.check()
            raise MediaError(DIED) from error
        finally:
            with self._lock:
                self._worker = None
            self.processes.give_back(worker, whole)


def end(worker: Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


# --- in the process --------------------------------------------------------------------------------------------------


def serve(pipe: Connection, given: bytes, memory: int) -> None:
    """Load for one request after the other, until the pipe is closed."""
    torch.set_num_threads(1)
    for module in LIBRARIES:  # now, while there is memory to load them into
        import_module(module)
    processor: MossVLProcessor = pickle.loads(given)
    resource.setrlimit(resource.RLIMIT_DATA, (used() + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    remembered = MediaMemory(REMEMBERED)
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            function, arguments = pipe.recv()
            if function is None:
                query, messages, first = arguments
                load = Load(query, messages, processor, remembered, Budget(1 << 62))
                load.run(lambda event: tell(pipe, event), first)
                continue
            try:
                pipe.send((function(processor, *arguments), None))
            except Exception as error:
                pipe.send((None, sendable(error)))


def tell(pipe: Connection, event: Event) -> None:
    """Send an event; a frame's pixels follow by themselves."""
    if isinstance(event, Frame):
        patches = event.patches
        pipe.send((replace(event, patches=patches[:, :0]) if patches.numel() else event, patches.numel()))
        if patches.numel():
            pipe.send_bytes(patches.numpy().tobytes())
        return
    if isinstance(event, Loaded) and event.error is not None:
        event = Loaded(sendable(event.error))
    pipe.send((event, 0))


def sendable(error: BaseException) -> MossVLError:
    """An error that another process can read."""
    if isinstance(error, MemoryError):
        return MediaError("the media need more memory than is allowed")
    if isinstance(error, MossVLError):
        return type(error)(str(error))
    return MossVLError(f"loading the media failed: {type(error).__name__}: {error}")


def used() -> int:
    """Bytes of data that this process has, as RLIMIT_DATA counts them."""
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
