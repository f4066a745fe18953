"""The clock of a session: the machine's, or a user's, which may fail; the times of frames, and time limits."""

import math
import time
from collections.abc import Callable
from numbers import Real

from mossvl.errors import InputError, shown

Clock = Callable[[], float]
"""Seconds of any origin, which never decrease."""
LATEST = 1e8
"""Largest time of a frame: three years."""
LONGEST = 3e7
"""Longest time limit, a year: threads cannot wait for ever longer ones."""


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


def checked_time(time: float) -> float:
    """A frame's time in seconds, as it is given.

    Raises:
        InputError: it is no time.
    """
    if not isinstance(time, Real) or isinstance(time, bool) or not 0 <= time <= LATEST:  # NaN is not between.
        raise InputError(f"time={shown(time, 40)} must be seconds from 0 to {LATEST:g}")
    return float(time)


def checked_timeout(seconds: float) -> float:
    """A time limit in seconds, a year at most.

    Raises:
        InputError: it is none.
    """
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not seconds >= 0:  # NaN is not.
        raise InputError(f"timeout={shown(seconds, 40)} must be seconds, 0 or more; or None for as long as it takes")
    return min(float(seconds), LONGEST)
