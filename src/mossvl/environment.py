"""Variables of this process's environment, changed for a while."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_changing = threading.RLock()
"""Held while variables are changed: what another thread found then, it would put back for good."""


@contextmanager
def environment(given: Mapping[str, str]) -> Iterator[None]:
    """A context in which these variables are set, for processes that are started and libraries that read them."""
    with _changing:
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
