import subprocess
import sys

import pytest
from leftovers import LEFT, leave_free, needs_glibc, resident

from mossvl import malloc


@needs_glibc
def test_trimming_gives_the_system_what_is_free():
    leave_free()
    before = resident()
    malloc.trim()
    assert before - resident() > LEFT / 2


def test_where_the_allocator_cannot_trim_nothing_happens(monkeypatch):
    monkeypatch.setattr(malloc, "_malloc_trim", None)
    monkeypatch.setattr(malloc, "_mallopt", None)
    malloc.trim()
    malloc.limit_arenas(1)


THREADS = """
import ctypes, sys, threading
from mossvl.malloc import limit_arenas
limit_arenas(int(sys.argv[1]))
libc, met = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
def use():
    libc.malloc(100_000)
    met.wait()
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_info(0, ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w")))
libc.fflush(None)
"""


@needs_glibc
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_share_as_many_arenas_as_are_allowed(count):
    run = subprocess.run([sys.executable, "-c", THREADS, str(count)], capture_output=True, text=True, timeout=120)
    assert run.stdout.count("<heap nr=") == count, run.stderr
