"""Clips made of still images: lists of frames, and animated WebP, which FFmpeg does not decode."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from mossvl.errors import MediaError
from mossvl.media.clip import Clip, Picture, Pixels
from mossvl.media.formats import decode_pillow, open_pillow
from mossvl.media.image import open_image
from mossvl.media.limits import MediaLimits, Watch

_SINGLE_FRAME_SECONDS = 1.0
_LATEST = 1e12  # Seconds; a float of more cannot tell single milliseconds apart.
_WEBP_DEFAULT_MS = 100  # For frames of duration 0, as in browsers.


def is_frame_list(source: Any) -> bool:
    """Whether `source` is a list of frames: pairs (seconds, image) or dicts {"timestamp": …, "image": …}."""
    return isinstance(source, (list, tuple)) and bool(source) and all(timed(item) is not None for item in source)


def timed(item: Any) -> tuple[Any, Any] | None:
    """Return (seconds, image) of an item of a list of frames; None if it is none."""
    if isinstance(item, Mapping) and {name for name in item if item[name] is not None} == {"timestamp", "image"}:
        item = (item["timestamp"], item["image"])
    if isinstance(item, (list, tuple)) and len(item) == 2:
        seconds, image = item
        if isinstance(seconds, Real) and not isinstance(seconds, bool):
            return seconds, image
    return None


class FrameList(Clip):
    """Images with timestamps (seconds, ascending, 0 or more) at which they begin. All images have one size.

    The last frame lasts as long as the frame before it; a single frame lasts a second.

    Raises:
        MediaError: not a list of frames, a bad timestamp, longer than `limits.duration`, or the first image is broken.
    """

    given_times = True

    def __init__(self, source: Sequence[Any], limits: MediaLimits) -> None:
        if not is_frame_list(source):
            raise MediaError(
                'a list given as a video must hold (seconds, image) pairs or {"timestamp": seconds, "image": image}; '
                f"got {f'{len(source)} items of other kinds' if source else 'an empty list'}"
            )
        pairs = [pair for pair in map(timed, source) if pair is not None]
        self._given = times = np.array([float(seconds) for seconds, _ in pairs])
        for number, seconds in enumerate(times.tolist()):
            if not (0 <= seconds <= _LATEST and (number == 0 or seconds > times[number - 1])):
                raise MediaError(
                    f"frame {number} of the list has timestamp {seconds:g}; timestamps are from 0 to {_LATEST:g}, and "
                    "ascending"
                )
        self._images = [image for _, image in pairs]
        last = times[-1] - times[-2] if len(times) > 1 else _SINGLE_FRAME_SECONDS
        span = float(times[0]), float(times[-1] + last)
        super().__init__("the list of frames", limits, times - times[0], span)
        first = open_image(self._images[0], limits)
        self._size = first.height, first.width

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def shown_times(self, indices: Sequence[int]) -> tuple[float, ...]:
        """Return the given timestamps."""
        return tuple(self._given[list(indices)].tolist())

    def _frames(self, indices: list[int], watch: Watch) -> Generator[Picture]:
        for index in indices:
            watch.check()
            image = open_image(self._images[index], self.limits)
            if (image.height, image.width) != self.size:
                raise MediaError(
                    f"frame {index} of the list has {image.width} x {image.height} pixels, but the first one "
                    f"{self.width} x {self.height}; give frames of one size"
                )
            yield image.array


def is_animated_webp(path: Path) -> bool:
    """Whether a file is animated WebP, by its content: RIFF type WEBP, animation bit of the extended header."""
    with path.open("rb") as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)


class WebPAnimation(Clip):
    """An animated WebP file, decoded by Pillow."""

    def __init__(self, path: Path, name: str, limits: MediaLimits) -> None:
        self._path = path
        with open_pillow(name, path, limits) as image:
            self._size = image.size[::-1]
            count = int(getattr(image, "n_frames", 1))
        durations = [duration or _WEBP_DEFAULT_MS for duration in _webp_durations(path)]
        durations = (durations + [_WEBP_DEFAULT_MS] * count)[:count]
        ends = np.cumsum(durations) / 1000
        super().__init__(name, limits, np.append(0.0, ends[:-1]), (0.0, float(ends[-1])))

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def _frames(self, indices: list[int], watch: Watch) -> Generator[Picture]:
        with open_pillow(self.name, self._path, self.limits) as image:
            pixels: Pixels | None = None
            for index in indices:
                watch.check()
                try:
                    image.seek(index)
                    pixels = decode_pillow(self.name, image, self.limits)
                except (EOFError, MediaError):
                    if pixels is None:
                        raise
                yield pixels.copy


def _webp_durations(path: Path) -> Iterator[int]:
    """Yield milliseconds of each frame, from the ANMF chunk headers."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            content = file.read(min(size, 16))
            if header[:4] == b"ANMF" and len(content) == 16:
                yield int.from_bytes(content[12:15], "little")
            file.seek(size + size % 2 - len(content), 1)
