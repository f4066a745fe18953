"""Time stamps of packets, in ticks, as they should have been: known for every packet, and running through the file."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -(2**63)
"""No stamp: FFmpeg's own value for it."""
_RESTART = 0.5  # Seconds. Where stamps are FFmpeg's guesses, decoding times fall by a few frames now and then.
_REORDERED = 16  # Frames: what codecs decode ahead of showing it, at most.
_GAP = 3600  # Seconds.

Ticks = NDArray[np.int64]


def filled(stamps: Ticks, step: int) -> Ticks:
    """Unknown stamps replaced by counting on from the last known one, or back from the first known one."""
    known = np.flatnonzero(stamps != UNKNOWN)
    places = np.arange(len(stamps))
    if not len(known):
        return places * step
    nearest = known[np.maximum(np.searchsorted(known, places, side="right") - 1, 0)]
    return stamps[nearest] + (places - nearest) * step


def joined(
    pts: Ticks, dts: Ticks, durations: Ticks, keyframe: NDArray[np.int8], step: int, time_base: Fraction
) -> Ticks | None:
    """Presentation times of a file whose stamps start again, or leap; None if they do neither.

    Files that were joined byte by byte, and recordings that were interrupted, have such stamps. A part begins with a
    packet whose decoding time is

    - before that of the packet stored before it: by more than half a second at a keyframe, elsewhere also by more
      frames than codecs reorder;
    - or more than an hour after it, and ten times what is usual in the file. (A gap that is shorter is taken for true.)

    Each part is moved so that it is shown from the end of the part before it. A presentation time that is as far from
    its packet's decoding time is replaced by that.
    """
    # Of stamps beyond what float64 counts exactly, differences of this size still are what they are.
    steps = np.diff(dts.astype(np.float64))
    gap = max(float(_GAP / time_base), 10 * float(np.median(np.abs(steps)))) if len(steps) else math.inf
    lost = np.abs(pts.astype(np.float64) - dts.astype(np.float64)) > gap
    fall = float(_RESTART / time_base)
    falls = np.where(keyframe[1:] != 0, fall, max(fall, _REORDERED * step))
    bounds = np.flatnonzero((steps < -falls) | (steps > gap)) + 1
    if not len(bounds) and not lost.any():
        return None
    pts = np.where(lost, dts, pts)
    part = np.searchsorted(bounds, np.arange(len(pts)), side="right")
    order = np.lexsort((pts, part))
    first, last = order[np.append(0, bounds)], order[np.append(bounds, len(pts)) - 1]
    # In some formats a packet's duration is the leap to the next one.
    lasting = np.where((durations[last] > 0) & (durations[last] <= gap), durations[last], step)
    lengths = pts[last] - pts[first] + lasting
    # Sums of int64 that are too large come round again, and what comes out is small.
    shift = pts[first[0]] + np.append(0, np.cumsum(lengths[:-1])) - pts[first]
    return pts + shift[part]
