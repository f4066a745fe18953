"""Another drawing path than that of training, for measuring what mossvl-tiny makes of other drawings.

Pillow draws a scene's kinds, colours, places and sizes. Outlines, fonts and backgrounds are not those of `synthetic`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mossvl.synthetic.palettes import COLOURS, Colour
from mossvl.synthetic.scene import Scene, Thing

FINE = 4
"""Drawn pixels on a pixel's side; their mean smooths edges."""
CONTRAST = 90
"""Least distance in sRGB of things from a plain background or a gradient, where there is one."""
Points = list[tuple[float, float]]
"""Corners in radii from the centre, x to the right and y down."""


@dataclass(frozen=True)
class Style:
    """How sketches look.

    Args:
        palette: sRGB of the colours' names.
        ground: "plain", "gradient" of vivid colours, "noise" in all channels, or "photograph".
        stroke: "" for filled things, "outline", or "border" for filled things with a thick black border.
        turned: least and largest angle in degrees, to either side.
        stretch: height over width or width over height of things; the longer one keeps its length.
        other: other stars, hearts and crescents than usual.
    """

    palette: Mapping[str, Colour] = field(default_factory=lambda: COLOURS)
    ground: str = "plain"
    stroke: str = ""
    turned: tuple[float, float] = (0.0, 0.0)
    stretch: float = 1.0
    other: bool = False


def sketch(scene: Scene, style: Style, height: int, width: int, seed: int | str) -> Image.Image:
    """Draw a scene.

    Args:
        seed: of the background and of what a style leaves open; frames of one clip share it.
    """
    random = Random(f"sketch {seed}")
    paints = [style.palette[thing.colour] for thing in scene.things]
    picture = GROUNDS[style.ground](random, height, width, paints)
    fine = picture.resize((FINE * width, FINE * height), Image.Resampling.BICUBIC)
    for thing, paint in zip(scene.things, paints, strict=True):
        _put(fine, thing, paint, style, Random(f"{seed} {thing.kind} {thing.word}"))
    return fine.reduce(FINE)


def _put(picture: Image.Image, thing: Thing, paint: Colour, style: Style, random: Random) -> None:
    side = min(picture.size)
    centre, radius = (thing.x * picture.width, thing.y * picture.height), thing.radius * side
    if thing.word:
        font = ImageFont.load_default(1.6 * radius)
        ImageDraw.Draw(picture).text(centre, thing.word, paint, font, anchor="mm")
        return
    angle = 2 * math.pi * thing.angle + math.radians(random.choice((1, -1)) * random.uniform(*style.turned))
    longer = random.random() < 0.5
    across, down = (1 / style.stretch, 1.0) if longer else (1.0, 1 / style.stretch)
    mask = Image.new("L", picture.size)
    drawn = ImageDraw.Draw(mask)
    border = Image.new("L", picture.size)
    bordered = ImageDraw.Draw(border)
    for number, points in enumerate(outlines(thing.kind, style.other, random)):
        placed = [_placed((across * x, down * y), angle, centre, radius) for x, y in points]
        drawn.polygon(placed, fill=0 if number else 255)
        thick = max(2 * FINE, round((0.2 if style.stroke == "border" else 0.09) * radius))
        bordered.line([*placed, *placed[:2]], fill=255, width=thick, joint="curve")
    if style.stroke != "outline":
        picture.paste(paint, mask=mask)
    if style.stroke:
        picture.paste((0, 0, 0) if style.stroke == "border" else paint, mask=border)


def _placed(
    point: tuple[float, float], angle: float, centre: tuple[float, float], radius: float
) -> tuple[float, float]:
    x, y = point
    cosine, sine = math.cos(angle), math.sin(angle)
    return centre[0] + radius * (x * cosine - y * sine), centre[1] + radius * (x * sine + y * cosine)


# --- outlines ----------------------------------------------------------------------------------------------------


def outlines(kind: str, other: bool, random: Random) -> list[Points]:
    """Return the outline of a kind, and that of its hole, if it has one."""
    if kind == "star":
        corners, inner = random.choice(((4, 0.36), (6, 0.55), (8, 0.52), (5, 0.54), (7, 0.48))) if other else (5, 0.4)
        return [_star(corners, inner)]
    if kind == "heart":
        return [_heart() if other else _square_heart()]
    if kind == "crescent":
        hole, beside = random.choice(((0.9, 0.34), (0.72, 0.42), (0.84, 0.6))) if other else (0.8, 0.5)
        points = _crescent(hole, beside)
        return [[(-x, y) for x, y in points] if other and random.random() < 0.5 else points]
    if kind == "ring":
        return [_round(0.97), _round(0.55)]
    return [_SIMPLE[kind]]


def _round(radius: float, x: float = 0.0, y: float = 0.0, start: float = 0.0, end: float = 1.0) -> Points:
    """Return an arc around (x, y), between two angles in turns, clockwise from the right."""
    turns = [2 * math.pi * (start + (end - start) * step / 120) for step in range(121)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def _star(corners: int, inner: float) -> Points:
    angles = [math.pi * step / corners for step in range(2 * corners)]
    lengths = [inner if step % 2 else 1.0 for step in range(2 * corners)]
    return [
        (length * math.sin(angle), -length * math.cos(angle)) for length, angle in zip(lengths, angles, strict=True)
    ]


def _heart() -> Points:
    angles = [2 * math.pi * step / 120 for step in range(120)]
    return [
        (
            math.sin(t) ** 3 * 16 / 17,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
        )
        for t in angles
    ]


def _square_heart() -> Points:
    left = _round(0.566, -0.4, -0.32, 0.375, 0.875)
    right = _round(0.566, 0.4, -0.32, -0.375, 0.125)
    return [*left, *right, (0.0, 0.88)]


def _crescent(hole: float, beside: float) -> Points:
    """Return a disc of radius 0.98 without a disc to the right of its centre."""
    x = (0.98**2 - hole**2 + beside**2) / (2 * beside)
    outer, inner = math.acos(x / 0.98) / (2 * math.pi), math.acos((x - beside) / hole) / (2 * math.pi)
    return [*_round(0.98, start=outer, end=1 - outer), *_round(hole, beside, start=1 - inner, end=inner)]


_ARM = 0.33
_SIMPLE: Mapping[str, Points] = {
    "circle": _round(0.95),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": _star(3, 0.5),
    "pentagon": _star(5, math.cos(math.pi / 5)),
    "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
    "cross": [
        *[(-_ARM, -0.95), (_ARM, -0.95), (_ARM, -_ARM), (0.95, -_ARM), (0.95, _ARM), (_ARM, _ARM)],
        *[(_ARM, 0.95), (-_ARM, 0.95), (-_ARM, _ARM), (-0.95, _ARM), (-0.95, -_ARM), (-_ARM, -_ARM)],
    ],
}

# --- backgrounds -------------------------------------------------------------------------------------------------


def _far(random: Random, paints: Sequence[Colour], least: int = 0) -> Colour:
    """Draw a colour far from all others, with `least` saturation."""
    best, most = (128, 128, 128), -1.0
    for _ in range(60):
        colour = (random.randrange(256), random.randrange(256), random.randrange(256))
        nearest = min((math.dist(colour, paint) for paint in paints), default=255.0)
        if max(colour) - min(colour) >= least and nearest > most:
            best, most = colour, nearest
        if most >= CONTRAST:
            break
    return best


def _plain(random: Random, height: int, width: int, paints: Sequence[Colour]) -> Image.Image:
    grey = [random.randrange(90, 226) for _ in range(20)]
    far = max(grey, key=lambda one: min((math.dist((one,) * 3, paint) for paint in paints), default=0.0))
    return Image.new("RGB", (width, height), (far, far, far))


def _gradient(random: Random, height: int, width: int, paints: Sequence[Colour]) -> Image.Image:
    first, second = (np.array(_far(random, paints, 140)) for _ in range(2))
    angle = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    part = np.clip((x * math.cos(angle) + y * math.sin(angle)) / 2.4 + 0.5, 0, 1)[..., None]
    return Image.fromarray((first + part * (second - first)).astype(np.uint8))


def _noise(random: Random, height: int, width: int, paints: Sequence[Colour]) -> Image.Image:
    """Draw noise of every colour in grains of one, two or four pixels; coarse grains stay when it is scaled down."""
    grain = random.choice((1, 2, 4))
    small = np.random.default_rng(random.randrange(2**32)).integers(
        0, 256, (-(-height // grain), -(-width // grain), 3), np.uint8
    )
    return Image.fromarray(small.repeat(grain, 0).repeat(grain, 1)[:height, :width])


def _photograph(random: Random, height: int, width: int, paints: Sequence[Colour]) -> Image.Image:
    """Draw light and shadow, things out of focus, and grain."""
    generator = np.random.default_rng(random.randrange(2**32))
    places = (generator.uniform(50, 205, (5, 6, 1)) + generator.normal(0, 25, (5, 6, 3))).clip(0, 255)
    light = Image.fromarray(places.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    drawn = ImageDraw.Draw(light)
    for _ in range(14):
        x, y, size = (
            random.uniform(0, width),
            random.uniform(0, height),
            random.uniform(0.04, 0.35) * min(height, width),
        )
        shade = tuple(int(part) for part in (generator.normal(120, 45) + generator.normal(0, 22, 3)).clip(0, 255))
        if random.random() < 0.5:
            drawn.ellipse((x - size, y - size / 2, x + size, y + size / 2), fill=shade)
        else:
            corners = [(x + random.uniform(-size, size), y + random.uniform(-size, size)) for _ in range(4)]
            drawn.polygon(corners, fill=shade)
    soft = light.filter(ImageFilter.GaussianBlur(random.uniform(0.005, 0.03) * min(height, width)))
    grain = generator.normal(0, 9, (height, width, 1)) + generator.normal(0, 4, (height, width, 3))
    return Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8))


GROUNDS: Mapping[str, Callable[[Random, int, int, Sequence[Colour]], Image.Image]] = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "photograph": _photograph,
}
