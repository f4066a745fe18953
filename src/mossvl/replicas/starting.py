"""What a new process finds beside its environment: not the main program."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_changing = threading.RLock()
"""Held while the main module is changed, as that of the environment is (`mossvl.environment`)."""


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
