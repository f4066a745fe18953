"""Work on pictures in several threads at a time: all loads of a process share one pool of threads.

Only work that computes belongs here (decoding bytes, resizing, cutting, hashing: it runs without the GIL), none that
waits for a network. No caller ever depends on the pool: what no thread of it has begun, the caller does itself, so that
one caller's work may use the pool in turn, and a thread that hangs delays its own caller only.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import torch

from mossvl.cores import cores

T = TypeVar("T")

MOST_THREADS = 8
"""More threads wait for each other at the GIL: 16 and 32 were slower than 8 with small pictures."""
AHEAD_BYTES = 64 << 20
"""Most bytes of pictures that a caller has in work, unless a single one is larger."""


@dataclass(frozen=True)
class Work(Generic[T]):
    """A function, and the bytes that it needs until its result is taken."""

    function: Callable[[], T]
    bytes: int = 0


def threads() -> int:
    """Threads that a caller may use: as many as PyTorch's (`torch.set_num_threads`, OMP_NUM_THREADS), but few."""
    return min(torch.get_num_threads(), MOST_THREADS)


@lru_cache(1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(cores(), MOST_THREADS), thread_name_prefix="mossvl-pictures")


def renew() -> None:
    """Leave the pool's threads, as in a forked process, which has none of them, or after the cores have changed."""
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew)


def in_order(works: Iterable[Work[T]], most: int, ahead: int = AHEAD_BYTES) -> Generator[T]:
    """Do works in several threads, and yield their results in the order of the works.

    The caller's thread makes the works, at most `most` before the one whose result is next. When the caller leaves, or
    a work has failed, works that have not begun are dropped, and the others are waited for.

    Args:
        most: works at a time; with 1, the caller's thread does them.
        ahead: most bytes of works at a time.

    Raises:
        Exception: that of the first work that has failed.
    """
    if most == 1:
        for work in works:
            yield work.function()
        return
    pool, begun, held = _pool(), deque[tuple[Future[T], Work[T]]](), 0
    try:
        for work in works:
            held += work.bytes
            begun.append((_asked(pool, work), work))
            while begun and (len(begun) > most or held > ahead or begun[0][0].done()):
                held -= begun[0][1].bytes
                yield _result(*begun.popleft())
        while begun:
            yield _result(*begun.popleft())
    finally:
        wait([future for future, _ in begun if not future.cancel()])


def _asked(pool: ThreadPoolExecutor, work: Work[T]) -> "Future[T]":
    try:
        return pool.submit(work.function)
    except RuntimeError:  # No thread can be started: memory is short, or the interpreter is ending.
        return Future()


def _result(future: "Future[T]", work: Work[T]) -> T:
    return work.function() if future.cancel() else future.result()
