"""The C library's allocator, from which Python, decoders and tensors on CPUs have their memory.

glibc's keeps much of what was given back to it: in every arena, of which there are as many as threads were at work at a
time. Others (musl's, macOS's, Windows') do not; nothing is done about them.
"""

import ctypes
import sys

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_malloc_trim, _mallopt = getattr(_libc, "malloc_trim", None), getattr(_libc, "mallopt", None)
_M_ARENA_MAX = -8


def trim() -> None:
    """Give the system what is free: all of the main arena, and of others all but their ends."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


def limit_arenas(count: int) -> None:
    """Have threads that begin later share so many arenas, the main one among them."""
    if _malloc_trim is not None and _mallopt is not None:
        _mallopt(_M_ARENA_MAX, count)
