"""Descriptions of pictures and clips, without pixels.

The place of a thing is its centre, from the upper left corner, relative to the picture's width and height. Sizes are
relative to the picture's shorter side. Times are in seconds, angles in turns, clockwise.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from mossvl.processing.sampling import frame_count, frame_indices, segment_times
from mossvl.synthetic.glyphs import GLYPHS
from mossvl.synthetic.lettering import check_written
from mossvl.synthetic.palettes import COLOURS as COLOURS
from mossvl.synthetic.palettes import PALETTES, Colour
from mossvl.synthetic.shapes import KINDS

SIZES = {"small": 0.09, "large": 0.18}
"""Radius of the circle around a shape."""
CLEAR = {"small": (0.0, 0.11), "large": (0.15, 1.0)}
"""Radii that words name: those between are neither small nor large."""
DOT = 0.16
"""Size of the dots of letters, relative to the radius; the width of a word grows with its length."""
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("plain", "gradient", "checked", "noisy", "clouds", "static", "photograph")
"""Patterns; "static" has noise in each channel, and "photograph" a horizon, hills, lights and grain."""
LONGEST = 5
"""Characters of a word."""
_KNOWN = frozenset({*KINDS, "word"})


@dataclass(frozen=True)
class Look:
    """What a thing may have beyond kind, colour, size and texture, and what words never tell.

    Args:
        palette: one of `PALETTES`, which gives names of colours their sRGB.
        variant: number of one of the kind's `VARIANTS`.
        stretch: height over width of the thing, of which the longer one keeps its length.
        edge: width of a border inside the outline, in radii; 0 for none.
        border: colour of the border; None for the thing's own.
        hollow: whether the thing is its border alone, an outline.
        font: one of `lettering.FONTS`, in which a word is written; "" for dots.

    Raises:
        ValueError: the palette is unknown, the stretch or the edge is out of range, or a hollow thing has no edge.
    """

    palette: str = "mossvl"
    variant: int = 0
    stretch: float = 1.0
    edge: float = 0.0
    border: Colour | None = None
    hollow: bool = False
    font: str = ""

    def __post_init__(self) -> None:
        if self.palette not in PALETTES:
            raise ValueError(f"{self.palette!r} is none of {', '.join(PALETTES)}")
        if not (self.stretch > 0 and 0 <= self.edge < 1):
            raise ValueError(f"stretch={self.stretch} must be above 0, and edge={self.edge} at least 0 and below 1")
        if self.hollow and not self.edge:
            raise ValueError("a hollow thing needs an edge")


PLAIN = Look()


@dataclass(frozen=True)
class Thing:
    """A shape, or a short word, at a place.

    Args:
        kind: one of `KINDS`, or "word".
        colour, texture: by name.
        size: a name, or the radius.
        x, y: centre.
        angle: rotation in turns.
        shade: sRGB offset of the colour, for variation.
        word: text of a thing of kind "word": capital letters and digits; in a font, also small letters.
        look: what words do not tell.

    Raises:
        ValueError: a name is unknown, a radius is not above 0, or `word` is too long, has other characters, or does not
            fit `kind`.
    """

    kind: str
    colour: str
    size: str | float = "large"
    texture: str = "plain"
    x: float = 0.5
    y: float = 0.5
    angle: float = 0.0
    shade: tuple[int, int, int] = (0, 0, 0)
    word: str = ""
    look: Look = PLAIN

    def __post_init__(self) -> None:
        if not (self.kind in _KNOWN and self.colour in COLOURS and self.texture in TEXTURES):
            self._refuse()
        if self.size not in SIZES and not (isinstance(self.size, float) and self.size > 0):
            raise ValueError(f"{self.size!r} is none of {', '.join(SIZES)}, and no radius")
        if (self.kind == "word") != bool(self.word):
            raise ValueError(f"a thing of kind {self.kind!r} with the word {self.word!r}; words have the kind 'word'")
        if self.word and not self.look.font and (len(self.word) > LONGEST or set(self.word) - set(GLYPHS)):
            raise ValueError(f"{self.word!r} cannot be written: at most {LONGEST} of {''.join(GLYPHS)}")
        if self.look.font:
            check_written(self.word, self.look.font)

    def _refuse(self) -> None:
        for value, known in ((self.kind, (*KINDS, "word")), (self.colour, COLOURS), (self.texture, TEXTURES)):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")

    @property
    def radius(self) -> float:
        return self.size if isinstance(self.size, float) else SIZES[self.size]

    @property
    def called(self) -> str:
        """ "small" or "large", where the radius is clearly one; else ""."""
        radius = self.radius
        return next((name for name, (least, most) in CLEAR.items() if least <= radius <= most), "")


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

    Args:
        part: start and end of the part that is looked at, in seconds; None for the whole clip.

    Raises:
        ValueError: `seconds` or `rate` is not above zero, or the part is not within the clip.
    """

    tracks: Sequence[Track]
    seconds: float
    background: Background = Background()
    rate: int = 12
    part: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.rate > 0):
            raise ValueError(f"seconds={self.seconds} and rate={self.rate} must be above 0")
        if self.part and not 0 <= self.part[0] < self.part[1] <= self.seconds:
            raise ValueError(f"part={self.part} must be within the clip's {self.seconds} seconds")

    @property
    def num_frames(self) -> int:
        return max(1, round(self.seconds * self.rate))

    def sampled(self, video_fps: float, max_frames: int = 256) -> tuple[float, ...]:
        """Return the times of the frames that the model samples from the clip's file, in seconds."""
        if self.part:
            return tuple(segment_times([self.part], video_fps, 1, max_frames)[0])
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
