"""Processes that a process has started, for tests that kill some, and of which none may be left."""

import os
import time
from pathlib import Path

PATIENCE = 60
"""Seconds that a process may take to end."""


def descendants(pid: int | None = None) -> dict[int, str]:
    """Processes below a process (by default this one), at any depth, with their command lines."""
    parents, lines = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal():
                parents[int(folder.name)] = int(_state(folder)[1])
                lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:  # It has ended.
            continue
    found: dict[int, str] = {}
    new = {os.getpid() if pid is None else pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found.keys()
        found |= {child: lines.get(child, "") for child in new}
    return found


def left(pids) -> list[int]:
    """Those of some processes that have not ended within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while (still := [pid for pid in pids if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return still


def _runs(pid: int) -> bool:
    try:
        return _state(Path(f"/proc/{pid}"))[0] != "Z"
    except OSError:
        return False


def _state(folder: Path) -> list[str]:
    """The fields of `/proc/PID/stat` after the name: state, parent, …"""
    return (folder / "stat").read_text().rpartition(") ")[2].split()
