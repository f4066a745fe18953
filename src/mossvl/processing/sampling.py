"""Sampling of frames, by the published rules where a docstring does not say otherwise.

Times are in seconds from the start of the clip.
"""

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from mossvl.errors import MediaError, shown

Segment = tuple[float, float] | tuple[float]
"""[start, end) of a video, or [instant], in seconds."""


def frame_count(total: int, duration: float, fps: float, min_frames: int, max_frames: int) -> int:
    """Number of frames to sample: `fps` times the duration, within `min_frames` … `max_frames`, at most `total`."""
    wanted = max(math.ceil(duration * fps - 1e-6), min_frames)
    return max(1, min(wanted, max_frames, total))


def frame_indices(total: int, count: int) -> list[int]:
    """Indices of `count` of `total` frames, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, total - 1, count).astype(int)).tolist()


def clip_times(last: float, duration: float, count: int) -> list[float]:
    """`count` times, evenly spaced from 0, at which to sample a clip whose frames are not evenly spaced.

    The last one is the time `last` of the last frame, as in the published rule. If that frame is shown so long that
    times would be less than duration / count apart, the last one is later.
    """
    return np.linspace(0, max(last, duration * (1 - 1 / count)), count).tolist()


def each_once(shown: Sequence[int], least: int) -> list[int]:
    """Remove repetitions from the ascending indices `shown` of frames.

    If fewer than `least` remain, add unsampled frames between the first and the last one, while there are any; the
    result is never longer than `shown`.
    """
    once = np.unique(shown)
    between = np.setdiff1d(np.arange(once[0], once[-1]), once)
    more = min(least - len(once), len(shown) - len(once), len(between))
    if more > 0:
        once = np.union1d(once, between[np.linspace(0, len(between) - 1, more).astype(int)])
    return once.tolist()


def allocate_frames(durations: Sequence[float], max_frames: int) -> list[int]:
    """Share `max_frames` among the videos of a prompt: one each, the rest by duration, largest remainders first.

    Each video gets at least one, also if `max_frames` is less than the number of videos.
    """
    rest = max_frames - len(durations)
    if rest <= 0:
        return [1] * len(durations)
    total = sum(durations)
    shares = [rest * duration / total if total > 0 else rest / len(durations) for duration in durations]
    counts = [1 + int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: shares[i] - int(shares[i]), reverse=True)
    for i in by_remainder[: max_frames - sum(counts)]:
        counts[i] += 1
    return counts


def check_segments(segments: Sequence[Sequence[float]], duration: float, name: str) -> list[Segment]:
    """Check a user's segments, and cut them to the clip.

    Args:
        duration: of the clip.
        name: of the clip, for errors.

    Raises:
        MediaError: there are no segments, or one is empty, reversed, negative, not finite, or outside the clip.
    """
    checked: list[Segment] = []
    for segment in segments:
        times = list(segment) if isinstance(segment, list | tuple) else []
        if len(times) not in (1, 2) or not all(_is_time(time) for time in times):
            raise MediaError(
                f"{name}: segment {shown(segment)} must be [start, end] or [instant], in seconds, not negative"
            )
        if len(times) == 2 and times[0] >= times[1]:
            raise MediaError(f"{name}: segment {times} must end after it starts")
        if times[0] > duration or (len(times) == 2 and times[0] >= duration):
            raise MediaError(f"{name}: segment {times} lies outside the video, which lasts {duration:.3f} seconds")
        checked.append((float(times[0]),) if len(times) == 1 else (float(times[0]), min(float(times[1]), duration)))
    if not checked:
        raise MediaError(f"{name}: `segments` is empty; leave it out to see the whole video")
    return checked


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf
    except OverflowError:
        return False


def segment_length(segment: Segment) -> float:
    return segment[1] - segment[0] if len(segment) == 2 else 0.0


def segment_parts(segments: Sequence[Segment], frames: int) -> list[int]:
    """Share `frames` among the segments of a video, in proportion to their lengths: at least one each."""
    lengths = [segment_length(segment) for segment in segments]
    total = sum(lengths)
    return [max(1, int(frames * length / total)) if length else 1 for length in lengths]


def segment_times(segments: Sequence[Segment], fps: float, min_frames: int, max_frames: int) -> list[list[float]]:
    """Sampled times of each segment of one video: evenly spaced, the end excluded.

    The segments share `min_frames` and `max_frames` (see `segment_parts`).
    """
    bounds = (segment_parts(segments, frames) for frames in (min_frames, max_frames))
    times = []
    for segment, least, most in zip(segments, *bounds, strict=True):
        length = segment_length(segment)
        count = min(max(math.ceil(length * fps - 1e-6), least), most)
        times.append([segment[0] + length * i / count for i in range(count)])
    return times
