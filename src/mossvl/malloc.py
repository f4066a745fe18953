"""Memory that the C library's allocator keeps after Python, decoders and tensors on CPUs have freed it.

glibc's allocator keeps much freed memory in its arenas, of which there are as many as threads ran at a time. With other
allocators (musl, macOS, Windows), which keep little, these functions do nothing.
"""

import ctypes
import sys

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_malloc_trim, _mallopt = getattr(_libc, "malloc_trim", None), getattr(_libc, "mallopt", None)
_M_ARENA_MAX = -8


def trim() -> None:
    """Return free memory to the system: all of the main arena's, and all but the top of other arenas'."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


def limit_arenas(count: int) -> None:
    """Let threads that start later share `count` arenas, including the main one."""
    if _malloc_trim is not None and _mallopt is not None:
        _mallopt(_M_ARENA_MAX, count)
