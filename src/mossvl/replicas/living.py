"""What a replica's process does beside its target: tells that it lives, and ends with the process that started it."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from mossvl.errors import MossVLError
from mossvl.importing import without_collector
from mossvl.orphans import continue_when_orphaned
from mossvl.replicas.beats import BEAT

ORPHAN_SECONDS = 15.0
"""Seconds that a replica has to end by itself when the process that started it is dead."""
POLL_SECONDS = 1.0
ALIVE, READY, FAILED = "alive", "ready", "failed"
"""What a process tells until it is ready, with what it tells of itself, or its error."""

_telling = threading.Lock()
_told = threading.Event()
"""Set once the process has told that it is ready, or why it will not be."""


def tell_ready(pipe: Connection, info: Any = None) -> None:
    """Tell the process that started this one that it is ready; the target of a replica's process calls this."""
    _tell_last(pipe, READY, info)


def run_target(pipe: Connection, number: int, given: bytes) -> None:
    """Run a replica's target, in its process.

    Args:
        given: the target and its further arguments, pickled: what has them may take long to import.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal is for the process that started this one, which then ends it in order.
    continue_when_orphaned()
    threading.Thread(target=_end_with_parent, name="mossvl-parent", daemon=True).start()
    threading.Thread(target=_beat, args=(pipe,), name="mossvl-beats", daemon=True).start()
    try:
        with without_collector(own=True):
            target, arguments = pickle.loads(given)
        target(pipe, number, *arguments)
    except MossVLError as error:
        with suppress(OSError):
            _tell_last(pipe, FAILED, error.plain())
        sys.exit(2)
    except (EOFError, OSError):
        if not orphaned(POLL_SECONDS):  # It is why the pipe has ended.
            raise
    finally:
        if orphaned():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _signal_group(signal.SIGTERM)


def _beat(pipe: Connection) -> None:
    """Tell again and again that this process lives, until it is ready or fails."""
    with suppress(OSError):  # Nobody listens any more.
        while not _told.wait(BEAT):
            with _telling:
                if not _told.is_set():
                    pipe.send((ALIVE, None))


def _tell_last(pipe: Connection, kind: str, info: Any) -> None:
    """Tell that the process is ready, or why it will not be, once: what follows is between target and watcher."""
    with _telling:
        if not _told.is_set():
            _told.set()
            pipe.send((kind, info))


def orphaned(seconds: float = 0.0) -> bool:
    """Return whether the process that started this replica's is dead, or is within so many seconds."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    return bool(wait([parent.sentinel], seconds)) or os.getppid() != parent.pid


def _end_with_parent() -> None:
    """Wait until the process that started this one is dead; then end this one, and all that it has started."""
    while not orphaned(POLL_SECONDS):
        pass
    _signal_group(signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    _signal_group(signal.SIGKILL)


def _signal_group(number: int) -> None:
    """Send a signal to this process and to what it has started."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, number)
    else:
        os.kill(os.getpid(), number)
