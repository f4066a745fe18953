"""Descriptions of pictures and clips, without pixels.

The place of a thing is its centre, from the upper left corner, relative to the picture's width and height. Sizes are
relative to the picture's shorter side. Times are in seconds, angles in turns, clockwise.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from mossvl.processing.sampling import frame_count, frame_indices
from mossvl.synthetic.glyphs import GLYPHS
from mossvl.synthetic.shapes import KINDS

COLOURS = {
    "red": (214, 39, 40),
    "orange": (245, 140, 30),
    "yellow": (240, 215, 50),
    "green": (40, 155, 75),
    "blue": (35, 95, 200),
    "purple": (130, 70, 170),
    "pink": (240, 140, 190),
    "brown": (120, 75, 45),
    "black": (25, 25, 30),
    "white": (250, 250, 250),
}
"""sRGB, 0 to 255."""
SIZES = {"small": 0.09, "large": 0.18}
"""Radius of the circle around a shape."""
DOT = 0.16
"""Size of the dots of letters, relative to the radius; the width of a word grows with its length."""
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("plain", "gradient", "checked", "noisy")
LONGEST = 5
"""Characters of a word."""
_KNOWN = frozenset({*KINDS, "word"})


@dataclass(frozen=True)
class Thing:
    """A shape, or a short word, at a place.

    Args:
        kind: one of `KINDS`, or "word".
        colour, size, texture: by name.
        x, y: centre.
        angle: rotation in turns.
        shade: sRGB offset of the colour, for variation.
        word: text of a thing of kind "word": capital letters and digits.

    Raises:
        ValueError: a name is unknown, or `word` is too long, has other characters, or does not fit `kind`.
    """

    kind: str
    colour: str
    size: str = "large"
    texture: str = "plain"
    x: float = 0.5
    y: float = 0.5
    angle: float = 0.0
    shade: tuple[int, int, int] = (0, 0, 0)
    word: str = ""

    def __post_init__(self) -> None:
        if not (self.kind in _KNOWN and self.colour in COLOURS and self.size in SIZES and self.texture in TEXTURES):
            self._refuse()
        if (self.kind == "word") != bool(self.word):
            raise ValueError(f"a thing of kind {self.kind!r} with the word {self.word!r}; words have the kind 'word'")
        if self.word and (len(self.word) > LONGEST or set(self.word) - set(GLYPHS)):
            raise ValueError(f"{self.word!r} cannot be written: at most {LONGEST} of {''.join(GLYPHS)}")

    def _refuse(self) -> None:
        for value, known in (
            (self.kind, (*KINDS, "word")),
            (self.colour, COLOURS),
            (self.size, SIZES),
            (self.texture, TEXTURES),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")

    @property
    def radius(self) -> float:
        return SIZES[self.size]


@dataclass(frozen=True)
class Background:
    """The background of a picture.

    Args:
        pattern: one of `BACKGROUNDS`.
        first, second: colours, sRGB 0 to 255; the pattern "plain" uses the first alone.
        angle: rotation of a gradient or of squares, in turns.
        seed: seed of the noise.

    Raises:
        ValueError: the pattern is unknown.
    """

    pattern: str = "plain"
    first: tuple[int, int, int] = (200, 200, 195)
    second: tuple[int, int, int] = (170, 175, 180)
    angle: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pattern not in BACKGROUNDS:
            raise ValueError(f"{self.pattern!r} is none of {', '.join(BACKGROUNDS)}")


@dataclass(frozen=True)
class Scene:
    """A picture. Later things cover earlier things."""

    things: Sequence[Thing]
    background: Background = Background()


@dataclass(frozen=True)
class Track:
    """A thing during a clip.

    Args:
        thing: the thing, with its initial place, angle and colour.
        since, until: the thing is there in [since, until).
        path: (time, x, y), ascending in time; interpolated linearly, constant before the first and after the last.
        turns: (time, angle), interpolated likewise.
        colours: (time, colour), ascending in time; each colour holds from its time on.

    Raises:
        ValueError: `since` is not before `until`.
    """

    thing: Thing
    since: float = 0.0
    until: float = float("inf")
    path: Sequence[tuple[float, float, float]] = ()
    turns: Sequence[tuple[float, float]] = ()
    colours: Sequence[tuple[float, str]] = field(default=())

    def __post_init__(self) -> None:
        if not self.since < self.until:
            raise ValueError(f"since={self.since} must be before until={self.until}")

    def at(self, time: float) -> Thing | None:
        """Return the thing at a time; None while the thing is not there."""
        if not self.since <= time < self.until:
            return None
        if not (self.path or self.turns or self.colours):
            return self.thing
        x, y = between(self.path, time) or (self.thing.x, self.thing.y)
        (angle,) = between(self.turns, time) or (self.thing.angle,)
        passed = [colour for begun, colour in self.colours if begun <= time]
        return replace(self.thing, x=x, y=y, angle=angle, colour=passed[-1] if passed else self.thing.colour)


@dataclass(frozen=True)
class Clip:
    """A clip of `seconds` at `rate` frames per second.

    Raises:
        ValueError: `seconds` or `rate` is not above zero.
    """

    tracks: Sequence[Track]
    seconds: float
    background: Background = Background()
    rate: int = 12

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.rate > 0):
            raise ValueError(f"seconds={self.seconds} and rate={self.rate} must be above 0")

    @property
    def num_frames(self) -> int:
        return max(1, round(self.seconds * self.rate))

    def sampled(self, video_fps: float, max_frames: int = 256) -> tuple[float, ...]:
        """Return the times of the frames that the model samples from the clip's file, in seconds."""
        return sampled_times(self.num_frames, self.rate, video_fps, max_frames)

    def at(self, time: float) -> Scene:
        """Return the scene at a time."""
        things = (track.at(time) for track in self.tracks)
        return Scene([thing for thing in things if thing is not None], self.background)


@lru_cache(4096)
def sampled_times(num_frames: int, rate: int, video_fps: float, max_frames: int) -> tuple[float, ...]:
    count = frame_count(num_frames, num_frames / rate, video_fps, 1, max_frames)
    return tuple(index / rate for index in frame_indices(num_frames, count))


def between(points: Sequence[tuple[float, ...]], time: float) -> tuple[float, ...] | None:
    """Interpolate points (time, values…) linearly at a time; None without points."""
    if not points:
        return None
    after = bisect_right(points, time, key=lambda point: point[0])
    if after in (0, len(points)):
        return tuple(points[max(after - 1, 0)][1:])
    (begin, *start), (end, *stop) = points[after - 1], points[after]
    part = (time - begin) / (end - begin)
    return tuple(a + part * (b - a) for a, b in zip(start, stop, strict=True))
