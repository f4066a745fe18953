"""Rank and world size, from the launcher."""

import os


def first_process() -> bool:
    """Whether this process is rank 0, which logs and writes files."""
    return os.environ.get("RANK") in (None, "", "0")


def num_processes() -> int:
    """Return the world size."""
    return int(os.environ.get("WORLD_SIZE") or 1)
