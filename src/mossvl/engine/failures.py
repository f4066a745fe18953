"""Steps that fail: the errors of their requests, and the end of queries that a hanging one has."""

import threading
from traceback import clear_frames

import torch

from mossvl.device.runner import Runner
from mossvl.engine.job import Job
from mossvl.errors import EngineError, MossVLError, ResourceError

LAST_SECONDS = 3.0
"""Seconds in which the thread of a loop ends its queries, unless it hangs."""


def end_those_left(jobs: list[Job], error: EngineError) -> None:
    """After a while, end queries that their loop's thread, which hangs in a step, has not ended.

    Args:
        jobs: of the loop, from which its thread removes each one that it ends.
    """

    def end() -> None:
        for job in list(jobs):
            job.end(error)

    if jobs:
        timer = threading.Timer(LAST_SECONDS, end)
        timer.daemon = True
        timer.start()


def failure_of_step(error: Exception, runner: Runner) -> MossVLError:
    """Turn the error of a failed step into one for its requests, and free the step's device memory.

    Raises:
        Exception: the device, or another rank, has failed.
    """
    clear_frames(error.__traceback__)
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    runner.check_device()
    return failure(error)


def failure(error: Exception) -> MossVLError:
    """Return the error with which a request ends when its step has failed with `error`."""
    if isinstance(error, MossVLError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return ResourceError(
            f"memory did not suffice for this request ({' '.join(str(error).split()):.200})",
            setting="EngineConfig.memory",
            advice="; lower max_pixels or max_frames, or leave less to the pages by a lower {}",
        )
    return MossVLError(
        f"computing this request has failed: {type(error).__name__}: {' '.join(str(error).split()):.500}"
    )
