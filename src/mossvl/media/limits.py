"""What loading one image or video may cost: pixels, downloaded bytes, seconds."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError


@dataclass(frozen=True)
class MediaLimits:
    """Limits on one image or one video; checked before the work they limit is begun.

    Attributes:
        image_pixels: largest height x width of an image or of a video frame.
        download_bytes: largest body of a URL, in bytes.
        timeout: seconds that one download, one opening or one reading may take; `inf` for no limit.

    Raises:
        OptionError: a limit is not a number above zero.
    """

    image_pixels: int = 201_326_592
    download_bytes: int = 1 << 30
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for name in ("image_pixels", "download_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise OptionError(f"{name} is {value!r}; give an integer above zero")
        value = self.timeout
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
            raise OptionError(f"timeout is {value!r}; give seconds, a number above zero")


DEFAULT_LIMITS = MediaLimits()


class Cancel(Protocol):
    """What a caller may hand in to stop a reading: a `threading.Event` or anything with its `is_set`."""

    def is_set(self) -> bool: ...


class Watch:
    """The clock and the cancel hook of one loading; `check` is called between packets and chunks."""

    def __init__(self, name: str, timeout: float, cancel: Cancel | None = None) -> None:
        self.name = name
        self.timeout = timeout
        self.cancel = cancel
        self._deadline = time.monotonic() + timeout

    def check(self) -> None:
        """Raise GenerationCancelled or GenerationTimeout when it is time to stop."""
        if self.cancel is not None and self.cancel.is_set():
            raise GenerationCancelled(f"{self.name}: reading was cancelled")
        if time.monotonic() > self._deadline:
            raise GenerationTimeout(
                f"{self.name}: not loaded within {self.timeout:g} s; raise MediaLimits.timeout or use a smaller file"
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count: a slow consumer must not look like a slow file."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._deadline += time.monotonic() - begun
