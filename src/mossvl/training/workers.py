"""Processes that make examples."""

import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")


def quiet(loader: DataLoader[T]) -> DataLoader[T]:
    """The same loader, whose workers print no traceback when a run is told to end in the middle of a transfer."""
    loader.worker_init_fn = partial(_set_up, loader.worker_init_fn)
    return loader


def _set_up(then: Callable[[int], None] | None, worker: int) -> None:
    """In a worker. The thread that hands tensors over tells `sys.excepthook` when the other end goes away."""
    told = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, EOFError | ConnectionError):
            told(kind, error, trace)

    sys.excepthook = hook
    if then is not None:
        then(worker)
