"""The interface of every clip: duration, frame times and size, and frames by index."""

import math
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mossvl.errors import InputError, MediaError
from mossvl.media.limits import Cancel, MediaLimits, Watch

Pixels = NDArray[np.uint8]
Picture = Callable[[], Pixels]
"""A function that gives a picture's pixels, in any thread: an array uint8 (height, width, 3), RGB, C-contiguous.

The array is nobody else's; it may be read-only.
"""

# Seconds. Timestamps are rounded to ticks in the file (milliseconds in Matroska) and to float64 here; a lookup by a
# frame's own time must return that frame.
_TIME_TOLERANCE = 1e-6
# Frames: largest deviation from a constant frame rate. A little above one half, for rounding.
_EVEN = 0.5 + 1e-6


class Clip(ABC):
    """A sequence of frames with timestamps. Use it as a context manager, or `close` it.

    Attributes:
        num_frames: number of frames, at least 1.
        start, end: seconds; start of the first frame, end of the last. `end` is after `start`.
        times: (frames,) float64 seconds from `start`, ascending from 0; when each frame begins.
        given_times: whether the user gave the timestamps; the prompt then shows them unchanged.
        player_start: seconds; the first frame's time in a browser's player: the file's timestamps, shifted to begin at
            0 if they begin below.
        height, width: pixels of a frame after rotation. Non-square pixels are not corrected.

    Raises:
        MediaError: the clip is longer than `limits.duration`.
    """

    given_times = False
    player_start = 0.0

    def __init__(
        self,
        name: str,
        limits: MediaLimits,
        times: NDArray[np.float64],
        span: tuple[float, float],
    ) -> None:
        self.name, self.limits = name, limits
        self.num_frames = len(times)
        self.start, self.end = span
        self.times = times
        self._closed = False
        self._files = ExitStack()
        self._readings: weakref.WeakSet[Generator[Picture]] = weakref.WeakSet()
        if self.duration > limits.duration:
            raise MediaError(
                f"{name}: {self.duration:g} seconds long, more than the {limits.duration:g} allowed",
                setting="MediaLimits.duration",
                advice="; use a shorter video or raise {}",
            )

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels after rotation. Raises MediaError if no frame can be decoded."""

    @property
    def height(self) -> int:
        return self.size[0]

    @property
    def width(self) -> int:
        return self.size[1]

    @property
    def duration(self) -> float:
        """Seconds from start to end; above zero."""
        return self.end - self.start

    @property
    def average_fps(self) -> float:
        """Frames per second."""
        return self.num_frames / self.duration

    @cached_property
    def even(self) -> bool:
        """Whether every frame i begins within half a frame of i / average_fps."""
        return bool((np.abs(self.times * self.average_fps - np.arange(self.num_frames)) <= _EVEN).all())

    def shown_times(self, indices: Sequence[int]) -> tuple[float, ...]:
        """Return the timestamps of frames: seconds from the start of the clip."""
        return tuple(self.times[list(indices)].tolist())

    def index_at(self, seconds: float) -> int:
        """Return the index of the frame shown `seconds` after the start; the first or last frame for a time outside."""
        if math.isnan(seconds):
            raise InputError(f"{self.name}: NaN is not a time; give seconds from the start of the clip")
        index = int(np.searchsorted(self.times, seconds + _TIME_TOLERANCE, side="right")) - 1
        return max(index, 0)

    def read(self, indices: Iterable[int], cancel: Cancel | None = None) -> Iterator[Pixels]:
        """Decode frames lazily, in order: a new array uint8 (height, width, 3) each, RGB, C-contiguous.

        Arguments and errors are those of `pictures`.
        """
        return (np.require(picture(), requirements="W") for picture in self.pictures(indices, cancel))

    def pictures(self, indices: Iterable[int], cancel: Cancel | None = None) -> Iterator[Picture]:
        """Decode frames lazily, in order, but for their conversion to RGB.

        An undecodable frame is replaced by the last decodable frame before it (at the beginning, by the first
        decodable frame), so that every index yields a frame.

        Args:
            indices: frame indices from 0, ascending; repeats are allowed.
            cancel: a `threading.Event` or alike; reading stops once it is set.

        Yields:
            for each index a function that gives the frame's pixels.

        Raises:
            InputError: indices are out of range or descending.
            MediaError: no frame can be decoded, or the clip was closed.
            GenerationTimeout: decoding, without the caller's own time, took longer than `limits.timeout`.
            GenerationCancelled: `cancel` was set.
        """
        numbers = [operator.index(index) for index in indices]
        self.check_open()
        for index in numbers:
            if not 0 <= index < self.num_frames:
                raise InputError(f"{self.name}: no frame {index}; the clip has frames 0 to {self.num_frames - 1}")
        for index, following in pairwise(numbers):
            if following < index:
                raise InputError(f"{self.name}: frame {following} is asked for after frame {index}; sort the indices")
        reading = self._read(numbers, cancel)
        self._readings.add(reading)
        return reading

    def _read(self, numbers: list[int], cancel: Cancel | None) -> Generator[Picture]:
        watch = Watch(self.name, self.limits.timeout, cancel)
        repeats = [(index, len(list(group))) for index, group in groupby(numbers)]
        with closing(self._frames([index for index, _ in repeats], watch)) as frames:
            for (_, count), picture in zip(repeats, frames, strict=True):
                for _ in range(count):
                    watch.check()
                    with watch.paused():
                        yield picture

    @abstractmethod
    def _frames(self, indices: list[int], watch: Watch) -> Generator[Picture]:
        """Yield one picture for each of `indices`, which strictly ascend; call `watch.check` between slow operations.

        A picture may be asked for its pixels more than once, also after the clip was closed.
        """

    def check_open(self) -> None:
        """Raise MediaError if the clip was closed."""
        if self._closed:
            raise MediaError(f"{self.name}: the clip was closed; open it again")

    def holds(self, files: ExitStack) -> None:
        """Take ownership of temporary files; `close` removes them."""
        self._files = files

    def close(self) -> None:
        """Close files, and end running reads."""
        self._closed = True
        for reading in list(self._readings):
            with suppress(ValueError):  # Running in another thread, which ends the read itself.
                reading.close()
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
