"""The clock of a session: the machine's, or a user's, which may fail."""

import math
import time
from collections.abc import Callable

from mossvl.errors import InputError

Clock = Callable[[], float]
"""Seconds of any origin, which never decrease."""


def checked_clock(clock: Clock) -> Clock:
    """The clock; one that is not the machine's raises an `InputError` when it fails, or gives no finite number."""
    if clock is time.monotonic:
        return clock

    def now() -> float:
        try:
            told = float(clock())
        except BaseException as error:  # Also SystemExit, which would end the engine's thread.
            raise InputError(f"clock={clock!r:.100} has failed: {type(error).__name__}: {error!s:.200}") from error
        if not math.isfinite(told):
            raise InputError(f"clock={clock!r:.100} gives {told}; it must give seconds of any origin")
        return told

    return now
