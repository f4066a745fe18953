"""The process of rank 1 or up: makes its part of a model, and carries out what rank 0 sends.

It ends when rank 0 closes the pipe or has died, or when it fails itself, with the error told.
"""

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from mossvl.importing import without_collector
from mossvl.orphans import continue_when_orphaned
from mossvl.parallel.processes import ALIVE, BEAT, FAILED, LOST, READY, reason_of

Make = Callable[..., Callable[..., None]]
"""Called with (ranks, …): makes this rank's part, and returns what carries out a message's parts."""


def main(fd: int) -> None:
    """Carry out what comes through a pipe; returns never."""
    continue_when_orphaned()
    pipe = Link(Connection(fd))
    try:
        _follow(pipe)
    except (EOFError, OSError):  # Rank 0 has closed the pipe.
        os._exit(0)
    except BaseException as error:
        os._exit(pipe.report(error))


class Link:
    """The pipe to rank 0, with a thread that sends beats, and ends the process once rank 0 has died.

    A process forked from rank 0's may keep the pipe open, but makes nobody this one's parent.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock, self._parent = pipe, threading.Lock(), os.getppid()
        threading.Thread(target=self._beat, daemon=True).start()

    def receive(self) -> bytes:
        return self._pipe.recv_bytes()

    def send(self, told: bytes) -> None:
        with self._lock:
            self._pipe.send_bytes(told)

    def report(self, error: BaseException) -> int:
        """Tell rank 0 why this process ends, unless another rank's end is the reason; return the exit code."""
        from mossvl.errors import EngineError, MossVLError
        from mossvl.parallel.collectives import CollectiveError

        if isinstance(error, CollectiveError):
            return LOST
        told = error.plain() if isinstance(error, MossVLError) else EngineError(reason_of(error))
        logging.getLogger(__name__).error("a rank has failed", exc_info=error)
        with suppress(OSError):
            self.send(FAILED + pickle.dumps(told))
        return 1

    def _beat(self) -> None:
        try:
            while os.getppid() == self._parent:
                self.send(ALIVE)
                time.sleep(BEAT)
        finally:
            os._exit(LOST)


def _follow(link: Link) -> None:
    with without_collector(own=True):
        import torch

        from mossvl.parallel.ranks import Ranks

    logging.getLogger("mossvl").setLevel(logging.ERROR)  # Rank 0 warns for all.
    share, device, threads, port, (make, given) = pickle.loads(link.receive())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif threads:
        torch.set_num_threads(threads)
    ranks = Ranks(share, device)
    carry_out: Callable[..., Any] = make(ranks, *given)
    link.send(READY)
    ranks.join(port)
    with torch.inference_mode():
        while True:
            carry_out(*pickle.loads(link.receive()))
