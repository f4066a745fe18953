"""Stopped processes whose parent has died: the kernel continues them, so that they end as others do."""

import ctypes
import signal
import sys

_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def continue_when_orphaned() -> None:
    """Have this process continued (SIGCONT) when its parent dies; on other systems than Linux, do nothing.

    A process under SIGSTOP notices neither the end of a pipe nor that it has another parent. Linux sends the signal
    also when the thread that has started the process ends: a process that runs takes no notice of SIGCONT.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGCONT))
