"""A video file played as if it were live."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mossvl.errors import GenerationCancelled, InputError
from mossvl.live.options import MOST_FPS
from mossvl.live.sources.source import FrameSource, SourceClock, SourceEvent, Timed
from mossvl.media.fetch import source_name
from mossvl.media.limits import DEFAULT_LIMITS, Cancel, MediaLimits
from mossvl.media.video import open_clip
from mossvl.options.checks import number, whole
from mossvl.processing.sampling import Segment, check_segments


class Playback(FrameSource):
    """The frames of a video, at its own pace or faster; their times are those of the video.

    Args:
        video: a path, a URL or a list of frames, as `open_clip` accepts; it is opened at once.
        fps: frames a second of the video, at most 1000; None for all frames. A frame that is shown longer comes once.
        pace: seconds of the video in a second: 1 is the video's own pace; None for as fast as frames are taken.
        segment: (start, end) in seconds of the video; (instant,) for one frame; None for the whole video.
        times: instants of the video, ascending, in place of `fps` and `segment`.
        most: number of frames at most; None for no limit.
        cancel: ends the opening, such as a download.

    Raises:
        GenerationCancelled: `cancel` was set.
        MediaError: the video cannot be opened, or `segment` or one of `times` lies outside it.
        GenerationTimeout: opening it, with its download, took longer than `limits.timeout`.
        OptionError: `fps`, `pace` or `most` is out of range.
        InputError: `times` do not ascend.
    """

    def __init__(
        self,
        video: Any,
        fps: float | None = 1.0,
        pace: float | None = 1.0,
        segment: Segment | None = None,
        *,
        times: Sequence[float] | None = None,
        most: int | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
        told: Callable[[SourceEvent], object] | None = None,
        clock: SourceClock | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        super().__init__(source_name(video) if isinstance(video, str | Path) else "the list of frames", told, clock)
        self.fps = None if fps is None else number("fps", fps, above=0, most=MOST_FPS)
        most = None if most is None else whole("most", most)
        self.pace = None if pace is None else number("pace", pace, above=0)
        self._clip = open_clip(video, limits, num_threads=1, cancel=cancel)
        # A stream may last for days; a limit on the time of decoding is for a query.
        self._clip.limits = replace(limits, timeout=math.inf)
        try:
            sampled = self._sample(segment) if times is None else self._at(times)
        except Exception:
            self._clip.close()
            raise
        self._indices = sampled[:most]

    def _sample(self, segment: Segment | None) -> list[int]:
        """Return the indices of the frames to show, ascending, each once."""
        clip = self._clip
        if segment is not None:
            (segment,) = check_segments([segment], clip.duration, self.name)
        start, end = (0.0, clip.duration) if segment is None else (segment[0], segment[-1])
        if segment is not None and len(segment) == 1:
            return [clip.index_at(start)]
        first, last = clip.index_at(start), clip.index_at(math.nextafter(min(end, clip.duration), 0))
        if self.fps is None:
            return list(range(first, last + 1))
        count = max(1, math.ceil((min(end, clip.duration) - start) * self.fps - 1e-6))
        # Of the instants start + n / fps, only those about the begin of a frame: a high rate has far more than frames.
        begins = np.ceil((clip.times[first : last + 1] - start) * self.fps)
        numbers = np.unique(np.clip(begins[:, None] + (-1, 0, 1), 0, count - 1))
        return list(dict.fromkeys(clip.index_at(start + number / self.fps) for number in numbers.tolist()))

    def _at(self, times: Sequence[float]) -> list[int]:
        check_segments([[time] for time in times], self._clip.duration, self.name)
        indices = [self._clip.index_at(time) for time in times]
        if indices != sorted(indices):
            raise InputError(f"{self.name}: the times of its frames must ascend")
        return list(dict.fromkeys(indices))

    def __len__(self) -> int:
        """The number of frames."""
        return len(self._indices)

    def read(self) -> Generator[Timed]:
        times = self._clip.shown_times(self._indices)
        begun = self.clock.now()
        with suppress(GenerationCancelled):  # It was stopped.
            for time, pixels in zip(times, self._clip.read(self._indices, self.stopped), strict=True):
                if self.pace is not None:
                    due = begun + (time - times[0]) / self.pace
                    if self.clock.wait(due - self.clock.now(), self.stopped):
                        return
                yield time, pixels

    def close(self) -> None:
        super().close()
        self._clip.close()
