"""What every clip can do: tell its length and size, and give frames by number."""

import math
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mossvl.errors import InputError, MediaError
from mossvl.media.limits import Cancel, MediaLimits, Watch

Pixels = NDArray[np.uint8]

# Timestamps are rounded when written (to a millisecond in Matroska, to a tick elsewhere) and again when divided here;
# a frame asked for by its own time must be found.
_TIME_TOLERANCE = 1e-6
# Frames: how far from where counting puts it a frame may be shown. A little beyond half of one, for rounding.
_EVEN = 0.5 + 1e-6


class Clip(ABC):
    """A sequence of frames, each with the time from which it is shown. Use it as a context manager, or `close` it.

    Attributes:
        num_frames: how many frames there are, at least 1.
        start, end: seconds; when the first frame begins and the last one ends. `end` is after `start`.
        times: (frames,) float64 seconds from the start, ascending from 0; from when on each frame is shown.
        given_times: the user gave the frames' times, which are told as they were given.
        player_start: seconds; when a browser's player shows the first frame. Its clock is that of the file, from zero
            on.
        height, width: pixels of a frame as shown, that is, after rotation. The shape of the pixels is not corrected.

    Raises:
        MediaError: it is longer than `limits.duration`.
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
        self._readings: weakref.WeakSet[Generator[Pixels]] = weakref.WeakSet()
        if self.duration > limits.duration:
            raise MediaError(
                f"{name}: {self.duration:g} seconds long, more than the {limits.duration:g} allowed",
                setting="MediaLimits.duration",
                advice="; use a shorter video or raise {}",
            )

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels. Raises MediaError if no frame can be decoded."""

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
        """Whether no frame i is shown more than half a frame before or after i / average_fps."""
        return bool((np.abs(self.times * self.average_fps - np.arange(self.num_frames)) <= _EVEN).all())

    def shown_times(self, indices: Sequence[int]) -> tuple[float, ...]:
        """Seconds from when on frames are shown, counted from the start of the clip."""
        return tuple(self.times[list(indices)].tolist())

    def index_at(self, seconds: float) -> int:
        """Index of the frame that is shown `seconds` after the start; the first or last frame if that is outside."""
        if math.isnan(seconds):
            raise InputError(f"{self.name}: NaN is not a time; give seconds from the start of the clip")
        index = int(np.searchsorted(self.times, seconds + _TIME_TOLERANCE, side="right")) - 1
        return max(index, 0)

    def read(self, indices: Iterable[int], cancel: Cancel | None = None) -> Iterator[Pixels]:
        """Decode frames one by one, as they are asked for.

        A frame that is broken in the file is replaced by the one shown before it (or, at the beginning, by the first
        one that can be decoded), so that there is always one for each index.

        Args:
            indices: frame numbers from 0, never descending; one may come several times.
            cancel: a `threading.Event` or alike; when set, reading stops.

        Yields:
            for each index an array uint8 (height, width, 3), RGB, C-contiguous, of memory of its own.

        Raises:
            InputError: indices out of range or descending.
            MediaError: nothing in the file can be decoded, or the clip was closed.
            GenerationTimeout: decoding (without what the caller does in between) took longer than `limits.timeout`.
            GenerationCancelled: `cancel` was set.
        """
        numbers = [operator.index(index) for index in indices]
        self.check_open()
        for index in numbers:
            if not 0 <= index < self.num_frames:
                raise InputError(f"{self.name}: no frame {index}; the clip has frames 0 to {self.num_frames - 1}")
        for one, following in pairwise(numbers):
            if following < one:
                raise InputError(f"{self.name}: frame {following} is asked for after frame {one}; sort the indices")
        reading = self._read(numbers, cancel)
        self._readings.add(reading)
        return reading

    def _read(self, numbers: list[int], cancel: Cancel | None) -> Generator[Pixels]:
        watch = Watch(self.name, self.limits.timeout, cancel)
        repeats = [(index, len(list(group))) for index, group in groupby(numbers)]
        with closing(self._frames([index for index, _ in repeats], watch)) as frames:
            for (_, count), pixels in zip(repeats, frames, strict=True):
                for left in reversed(range(count)):
                    watch.check()
                    with watch.paused():
                        yield pixels.copy() if left else pixels

    @abstractmethod
    def _frames(self, indices: list[int], watch: Watch) -> Generator[Pixels]:
        """One array for each of `indices`, which ascend; calls `watch.check` wherever it may take long."""

    def check_open(self) -> None:
        """Raise MediaError if the clip was closed."""
        if self._closed:
            raise MediaError(f"{self.name}: the clip was closed; open it again")

    def holds(self, files: ExitStack) -> None:
        """Take over temporary files, to be removed when the clip is closed."""
        self._files = files

    def close(self) -> None:
        """Let go of files. Readings that are under way end."""
        self._closed = True
        for reading in list(self._readings):
            with suppress(ValueError):  # Running in another thread at this moment, which has to end it.
                reading.close()
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
