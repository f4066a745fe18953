"""Workers of a DataLoader."""

import os
import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")


def num_workers() -> int:
    """Number of DataLoader workers of each rank: its share of the machine's cores, less one for itself."""
    return max(1, (os.cpu_count() or 2) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)


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
