"""Servers with mossvl-tiny, each a process of its own on a loopback port."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import httpx

PATIENCE = 120
"""Seconds that anything may take that should not take long."""


@dataclass
class Running:
    """A server that runs.

    Attributes:
        lines: of its log so far.
    """

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def stop(self) -> int:
        """SIGTERM → its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(*flags: str, ready: bool = True, **environment: str) -> Iterator[Running]:
    """`mossvl serve` with these flags, on a free port; killed at the end, with the folder of what it has left."""
    command = [sys.executable, "-m", "mossvl", "serve", "--port", "0", *flags]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MOSSVL_")}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given = plain | {"TMPDIR": folder} | environment
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given)
        running = Running(process)
        reading = threading.Thread(target=running.read, daemon=True)
        reading.start()
        try:
            running.url = waited(lambda: re.search(r"listening on (http://\S+)", running.log), running)[1]
            if ready:
                waited(lambda: is_ready(running), running)
            yield running
        finally:
            process.kill()
            process.wait()
            reading.join()
            process.stderr.close()


def is_ready(running) -> bool:
    try:
        return httpx.get(f"{running.url}/ready").status_code == 200
    except httpx.TransportError:  # It has ended, or is about to.
        return False


def waited(condition, running):
    """What a condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        assert running.process.poll() is None, running.log
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} seconds; the log:\n{running.log}")
