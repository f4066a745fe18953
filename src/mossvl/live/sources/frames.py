"""Frames that a program makes: any iterable."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

from mossvl.errors import InputError
from mossvl.live.options import MOST_FPS
from mossvl.live.sources.source import FrameSource, SourceClock, SourceEvent, Timed
from mossvl.media.pictures import timed
from mossvl.options.checks import number


class Frames(FrameSource):
    """The frames of an iterable, which is read in a thread of its own.

    Args:
        frames: images, as `open_image` accepts, or pairs (seconds, image), or dicts {"timestamp": …, "image": …}. The
            time of an image alone is when it came, in seconds since the first one.
        fps: with it, image number n alone has the time n / fps, and comes no sooner.

    Raises:
        OptionError: `fps` is not above zero, or above 1000.
    """

    def __init__(
        self,
        frames: Iterable[Any],
        fps: float | None = None,
        *,
        told: Callable[[SourceEvent], object] | None = None,
        clock: SourceClock | None = None,
    ) -> None:
        super().__init__("the iterator of frames", told, clock)
        self.fps = None if fps is None else number("fps", fps, above=0, most=MOST_FPS)
        self._frames = frames

    def read(self) -> Generator[Timed]:
        """As of every source.

        Raises:
            InputError: a time is earlier than the one before.
        """
        begun: float | None = None
        last = 0.0
        for count, item in enumerate(self._frames):
            begun = self.clock.now() if begun is None else begun
            pair = timed(item)
            if pair is None:
                due = self.clock.now() - begun if self.fps is None else count / self.fps
                if self.fps is not None and self.clock.wait(begun + due - self.clock.now(), self.stopped):
                    return
                pair = due, item
            time = number(f"the time of frame {count}", pair[0])
            if time < last:
                raise InputError(
                    f"{self.name}: frame {count} has the time {time:g}, the one before {last:g}; times ascend from 0"
                )
            last = time
            yield time, pair[1]
