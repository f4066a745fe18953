"""The screen of this machine."""

from collections.abc import Callable, Generator

import numpy as np
from PIL import Image, ImageGrab

from mossvl.errors import MediaError
from mossvl.live.options import MOST_FPS
from mossvl.live.sources.source import FrameSource, SourceClock, SourceEvent, Timed
from mossvl.options.checks import number

Grab = Callable[[], Image.Image]


class Screen(FrameSource):
    """What the screen shows, `fps` times a second; times are seconds since the start.

    Args:
        fps: frames a second, at most 1000.
        box: (left, top, right, bottom) in pixels of the screen; None for all of it.
        grab: takes a picture of the screen; by default Pillow's, which asks X11, Windows or macOS.

    Raises:
        MediaError: the screen cannot be captured here.
        OptionError: `fps` is out of range.
    """

    lossless = False

    def __init__(
        self,
        fps: float = 1.0,
        box: tuple[int, int, int, int] | None = None,
        *,
        grab: Grab | None = None,
        told: Callable[[SourceEvent], object] | None = None,
        clock: SourceClock | None = None,
    ) -> None:
        super().__init__("the screen", told, clock)
        self.fps = number("fps", fps, above=0, most=MOST_FPS)
        self._grab = grab or (lambda: ImageGrab.grab(bbox=box))
        self._picture()  # An error comes here, before a session begins.

    def read(self) -> Generator[Timed]:
        begun = self.clock.now()
        due = 0.0
        while not self.clock.wait(begun + due - self.clock.now(), self.stopped):
            now = self.clock.now() - begun
            yield now, self._picture()
            due = max(due + 1 / self.fps, now)

    def _picture(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        try:
            return np.asarray(self._grab().convert("RGB"))
        except (OSError, ValueError, ImportError) as error:
            raise MediaError(
                f"the screen cannot be captured ({error}); it needs an X11 display (DISPLAY), Windows or macOS"
            ) from error
