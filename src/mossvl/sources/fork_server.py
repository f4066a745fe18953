"""The process that all decoder processes are forked from, so that what they need is imported once.

It can be started before the model is loaded, and then imports meanwhile: this module imports nothing that takes long.
"""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

IMPORTED = "mossvl.sources.processes"
"""The module that imports all that a decoder process needs."""


def context() -> ForkServerContext:
    """Return multiprocessing's context of the process."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([IMPORTED])
    return found


def start() -> None:
    """Start the process, unless it runs already."""
    context()
    with _ignoring_ctrl_c():
        forkserver.ensure_running()


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """A context in which processes are started that ignore Ctrl-C from the beginning: their parent handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
