"""Memory that is free, and that glibc's allocator keeps, for tests of giving it back."""

import ctypes
import os
import platform
import threading
from pathlib import Path

import pytest

BLOCK = 64 << 10
"""Bytes; too few to be mapped by themselves."""
LEFT = 48 << 20
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leave_free() -> None:
    """Use `LEFT` bytes, and free all of them but the last block, which holds the others back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(LEFT // BLOCK)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:
        libc.free(block)


def leave_free_at_ends(processor) -> int:
    """In a process that decodes: a thread leaves `LEFT` bytes at the end of its arena, where glibc keeps up to 64 MiB.

    Returns bytes of memory that the process has then.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.free(libc.malloc(31 << 20))  # From now on, less than that is not mapped by itself.

    def use() -> None:
        blocks = [libc.malloc(BLOCK) for _ in range(LEFT // BLOCK)]
        for block in blocks:
            ctypes.memset(block, 1, BLOCK)
        for block in blocks:
            libc.free(block)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    return resident()
