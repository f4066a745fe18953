"""Workers of a DataLoader."""

import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")


def quiet(loader: DataLoader[T]) -> DataLoader[T]:
    """Keep the loader's workers from printing a traceback when the run ends during a transfer; return the loader."""
    loader.worker_init_fn = partial(_set_up, loader.worker_init_fn)
    return loader


def _set_up(then: Callable[[int], None] | None, worker: int) -> None:
    """In a worker: silence the thread that sends tensors, which reports a lost connection to `sys.excepthook`."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, EOFError | ConnectionError):
            previous(kind, error, trace)

    sys.excepthook = hook
    if then is not None:
        then(worker)
