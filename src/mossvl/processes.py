"""Processes that train together: how many they are, and which of them this one is; so says the launcher."""

import os


def first_process() -> bool:
    """Whether it is the one that speaks and writes."""
    return os.environ.get("RANK") in (None, "", "0")


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)
