"""Rank and world size, from the launcher, and the end of its process group."""

import gc
import os


def first_process() -> bool:
    """Return whether this process is rank 0, which logs and writes files."""
    return os.environ.get("RANK") in (None, "", "0")


def num_processes() -> int:
    """Return the world size."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def leave_process_group() -> None:
    """Destroy the run's process group, if there is one; a program calls this once, before it ends.

    Gloo's threads hold the tensors of their last collectives. A thread that frees tensors while Python exits aborts the
    process.
    """
    import torch.distributed as dist

    gc.collect()  # A model in a reference cycle would keep the group and its threads alive.
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
