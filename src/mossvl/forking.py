"""Whether a process that was forked from another one can compute.

A fork copies one thread, and what libraries remember of the others: PyTorch then waits for ever for threads that are no
more, if the thread that forked had computed with them before. Nothing tells that but to compute.
"""

import os
import signal
import sys
import time
from contextlib import suppress

from mossvl.errors import EngineError

SECONDS = 5.0
"""A computation of microseconds that has not ended by then never ends."""
ENTRIES = 1 << 18
"""Of a tensor: enough for PyTorch to share the work among its threads."""


class _Origin:
    """What is known of this process's beginning.

    Attributes:
        forked: this process was forked.
        engine, cuda: the parent process had an engine's thread at work, or CUDA in use.
        cuda_here: CUDA is in use in this process, as of its last fork.
    """

    forked = engine = cuda = cuda_here = False


def check_fork(device: str = "cpu") -> None:
    """Refuse to compute where that would never end, or where CUDA is of no use.

    Args:
        device: the type of the one to compute on.

    Raises:
        EngineError: this process was forked from one that had computed before.
    """
    reason = ""
    if _Origin.engine:  # It may hold for ever what that thread had taken for a moment.
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
    """This process was forked from one in which the thread of an engine ran."""
    _Origin.engine = True


def _computes() -> bool:
    """Whether this thread can compute: a process that is forked from it tries, and must not hang."""
    import torch

    if torch.get_num_threads() == 1:
        return True
    try:
        child = os.fork()
    except OSError:  # Nothing can be found out, and there is no memory to hang with.
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
    except ChildProcessError:  # It has ended, and this process is one that waits for none, or for all.
        return True


def _before() -> None:
    in_use = getattr(sys.modules.get("torch.cuda"), "is_initialized", bool)
    _Origin.cuda_here = in_use()


def _in_child() -> None:
    _Origin.forked = True
    _Origin.cuda = _Origin.cuda or _Origin.cuda_here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
