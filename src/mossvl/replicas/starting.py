"""What a new process finds: variables of its environment, and not the main program."""

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

_changing = threading.RLock()
"""Held while a context has changed the environment or the main module, which belong to the whole process."""


@contextmanager
def environment(given: Mapping[str, str]) -> Iterator[None]:
    """A context in which processes are started with these variables; libraries read them when they are imported."""
    with _changing:
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def without_main() -> Iterator[None]:
    """A context in which processes are started that do not run the main program's file again, as 'spawn' does.

    They need nothing of it, and a program that makes replicas where it is not guarded by `if __name__ == "__main__":`
    would make more of them in each.
    """
    with _changing:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
