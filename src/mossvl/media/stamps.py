"""Repair of packet timestamps, in ticks: missing timestamps filled, discontinuities joined."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -(2**63)
"""FFmpeg's AV_NOPTS_VALUE."""
_RESTART = 0.5  # Seconds. Guessed dts may fall by a few frames without a discontinuity.
_REORDERED = 16  # Frames: the largest reorder delay of codecs.
_GAP = 3600  # Seconds.

Ticks = NDArray[np.int64]


def filled(stamps: Ticks, step: int) -> Ticks:
    """Fill unknown timestamps by `step` from the last known timestamp, or backwards from the first."""
    known = np.flatnonzero(stamps != UNKNOWN)
    places = np.arange(len(stamps))
    if not len(known):
        return places * step
    nearest = known[np.maximum(np.searchsorted(known, places, side="right") - 1, 0)]
    return stamps[nearest] + (places - nearest) * step


def joined(
    pts: Ticks, dts: Ticks, durations: Ticks, keyframe: NDArray[np.int8], step: int, time_base: Fraction
) -> Ticks | None:
    """Return continuous pts of a file with timestamp discontinuities; None if the file has none.

    Concatenated files and interrupted recordings have discontinuities. A new part begins at a packet whose dts, against
    the previous packet's,

    - falls by more than half a second, and, if the packet is no keyframe, by more than codecs reorder;
    - or rises by more than an hour and more than ten times the median step. (A shorter gap is taken for real.)

    Each part is shifted to begin at the end of the part before. A pts as far from its packet's dts is replaced by the
    dts.
    """
    # float64 is exact enough for the differences sought here, even of ticks beyond its exact integers.
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
    # Some formats store the discontinuity as the duration of the packet before.
    lasting = np.where((durations[last] > 0) & (durations[last] <= gap), durations[last], step)
    lengths = pts[last] - pts[first] + lasting
    # int64 overflow of intermediate sums cancels out: the results are small.
    shift = pts[first[0]] + np.append(0, np.cumsum(lengths[:-1])) - pts[first]
    return pts + shift[part]
