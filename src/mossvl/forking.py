"""Whether a forked process can compute.

A fork copies only the thread that forks. If that thread had computed with PyTorch's thread pool, PyTorch in the child
waits for ever for threads that do not exist there. Only a trial computation shows it.
"""

import os
import signal
import sys
import time
from contextlib import suppress

from mossvl.errors import EngineError

SECONDS = 5.0
"""Time-out of the trial computation, which takes microseconds."""
ENTRIES = 1 << 18
"""Elements of the trial tensor: enough for PyTorch to use its thread pool."""


class _Origin:
    """How this process began.

    Attributes:
        forked: whether the process was forked.
        engine, cuda: whether the parent ran an engine's thread, or used CUDA.
        cuda_here: whether this process used CUDA when it last forked.
    """

    forked = engine = cuda = cuda_here = False


def check_fork(device: str = "cpu") -> None:
    """Refuse to compute in a forked process where a computation would hang, or CUDA fail.

    Args:
        device: type of the device to compute on.

    Raises:
        EngineError: this process was forked from one that had computed before.
    """
    reason = ""
    if _Origin.engine:  # A lock that the thread held is never released here.
        reason = "an engine was at work"
    elif _Origin.cuda and device == "cuda":
        reason = "CUDA was in use"
    elif _Origin.forked and not _computes():
        reason = "PyTorch had computed with several threads"
    if reason:
        raise EngineError(
            f"{reason} in the process that this one was forked from, so that nothing can be computed in this one; "
            "start it with multiprocessing's 'spawn', or fork it before anything is loaded or computed"
        )


def beside_engine() -> None:
    """Record that the parent ran the thread of an engine."""
    _Origin.engine = True


def _computes() -> bool:
    """Whether this thread can compute: a trial computation in a forked process must not hang."""
    import torch

    if torch.get_num_threads() == 1:
        return True
    try:
        child = os.fork()
    except OSError:  # No process can be forked to try.
        return True
    if not child:
        with suppress(BaseException):
            torch.zeros(ENTRIES).add_(1)
            os._exit(0)
        os._exit(1)
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return True
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    except ChildProcessError:  # The child has ended, and was reaped elsewhere.
        return True


def _before() -> None:
    in_use = getattr(sys.modules.get("torch.cuda"), "is_initialized", bool)
    _Origin.cuda_here = in_use()


def _in_child() -> None:
    _Origin.forked = True
    _Origin.cuda = _Origin.cuda or _Origin.cuda_here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
