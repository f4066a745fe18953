"""Imports of PyTorch and transformers, which every process waits for."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_command() -> bool:
    """Whether this process runs the command `mossvl`, and not another program that imports the package."""
    started = sys.orig_argv[1:3]
    return started == ["-m", "mossvl"] or bool(started and Path(started[0]).stem == "mossvl")


@contextmanager
def without_collector(own: bool = False) -> Iterator[None]:
    """A context in which no garbage is collected.

    The imports make 600,000 objects that stay; the collector would go through all of them again and again, which is a
    fifth of the time.

    Args:
        own: the process is the package's own: what is there at the end is kept out of later collections, too.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if own:
            gc.freeze()
        if collecting:
            gc.enable()
