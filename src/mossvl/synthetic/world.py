"""Random scenes of the training, validation and test splits.

Splits are disjoint by construction. Each pair of colour and kind belongs to one split, each colour and each kind alone
to all: test questions are about pairs that no training scene shows. Words of two or more characters are split by a
hash; single characters belong to all splits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from math import cos, pi, sin
from random import Random
from string import ascii_lowercase, digits
from typing import TypeVar

from mossvl.synthetic import lettering
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.glyphs import GLYPHS, ROWS
from mossvl.synthetic.palettes import COLOURS, PALETTES, Colour
from mossvl.synthetic.scene import DOT, PLAIN, SIZES, TEXTURES, Background, Look, Scene, Thing
from mossvl.synthetic.shapes import KINDS, VARIANTS

T = TypeVar("T")
Pair = tuple[str, str]
"""A colour and a kind of shape."""
Box = tuple[float, float, float, float]
"""Centre x and y, half the width, half the height."""

GAP = 0.02
"""Least gap between things, and to the picture's border, relative to the shorter side."""
CONTRAST = 70
"""Least distance of a thing's colour from its background's colours, in sRGB."""
SHADE, HUE = 15, 10
"""Largest variation of colours, in sRGB: of all channels together, and of each channel."""
ATTEMPTS = 50
"""Places tried for a thing, and backgrounds tried for a picture."""
ROUNDS = 100
"""Arrangements of all things that are tried, before they may overlap more."""
ROOM = (0.30, 0.21, 0.17, 0.15, 0.11)
"""Largest radius of a thing by the number of things in the picture."""
NARROW = ("crescent", "cross", "ring")
"""Kinds of which a thick border would leave little colour."""
THIN = 0.012
"""Least width of an outline."""
LEGIBLE = 0.08
"""Least radius of a thing that may be striped or dotted."""
BORDERS = ((0, 0, 0), (0, 0, 0), (0, 0, 0), (70, 70, 70), (255, 255, 255))
"""Colours of borders: none that names another colour of a thing."""
ALIKE = frozenset("cosuvwxz")
"""Letters whose capitals look like them."""
SYLLABLES = tuple(a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "el", "is"))


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def split_of(colour: str, kind: str) -> Split:
    """Return the split of a pair: of the ten colours of a kind, one is test and one validation; likewise of the ten
    kinds of a colour."""
    return _of_ten(3 * list(COLOURS).index(colour) + 7 * list(KINDS).index(kind))


def split_of_word(word: str) -> Split:
    return _of_ten(hashlib.blake2b(word.encode(), digest_size=2).digest()[0])


def _of_ten(number: int) -> Split:
    return {0: Split.TEST, 1: Split.VALIDATION}.get(number % 10, Split.TRAIN)


PAIRS: dict[Split, list[Pair]] = {
    split: [(colour, kind) for colour in COLOURS for kind in KINDS if split_of(colour, kind) == split]
    for split in Split
}
SHOWN = {split: PAIRS[Split.TRAIN] + (PAIRS[split] if split != Split.TRAIN else []) for split in Split}
"""Pairs that scenes of a split may show: its own and the training split's."""
_OWN = {split: frozenset(pairs) for split, pairs in PAIRS.items()}
_CHARACTERS = [[character for character in GLYPHS if character.isdigit() == digits] for digits in (False, True)]


class World:
    """A random generator of scenes of one split; the same seed gives the same scenes.

    Args:
        aspect: width over height of the pictures.
        edition: what the world shows and asks.
        frames: largest number of sampled frames of a clip; by default, the edition's.
    """

    def __init__(
        self,
        split: Split,
        seed: int | str,
        aspect: float = 1.0,
        edition: Edition = FIRST,
        frames: int | None = None,
    ) -> None:
        self.split, self.aspect, self.edition = split, aspect, edition
        self.frames = edition.frames[0], frames or edition.frames[1]
        self.width, self.height = max(aspect, 1.0), max(1 / aspect, 1.0)
        self.random = Random(f"{split} {seed}")
        self.palette = self.one(edition.palettes) if len(edition.palettes) > 1 else edition.palettes[0]

    def chance(self, probability: float = 0.5) -> bool:
        return self.random.random() < probability

    def one(self, choices: Sequence[T]) -> T:
        """Draw one of `choices`."""
        return choices[int(self.random.random() * len(choices))]

    def count(self, least: int, most: int) -> int:
        """Draw an integer from `least` to `most`, both included."""
        return least + int(self.random.random() * (most + 1 - least))

    def distinct(self, choices: Sequence[T], count: int) -> list[T]:
        """Draw `count` distinct choices in random order; all choices if there are fewer."""
        return self.random.sample(choices, min(count, len(choices)))

    def owns(self, colour: str, kind: str) -> bool:
        """Whether a pair is of this split, so that questions may be about the pair."""
        return (colour, kind) in _OWN[self.split]

    def pairs(self, count: int, subjects: int = 1) -> list[Pair]:
        """Draw `count` distinct pairs: `subjects` of this split first, the others of the training split."""
        chosen = self.distinct(PAIRS[self.split], min(subjects, count))
        for pair in self.distinct(PAIRS[Split.TRAIN], count):
            if len(chosen) < count and pair not in chosen:
                chosen.append(pair)
        return chosen

    def alike(self, pair: Pair, shown: Sequence[Pair], position: int | None = None) -> Pair:
        """Draw a pair of this split's SHOWN that is not in `shown` and differs from `pair` in colour or kind, not both.

        Args:
            position: the difference: 0 for the colour, 1 for the kind, None for either.
        """
        fitting = [
            other
            for other in SHOWN[self.split]
            if (other[0] == pair[0]) != (other[1] == pair[1])
            and other not in shown
            and (position is None or other[position] != pair[position])
        ]
        return self.one(fitting)

    def scene(self, count: int, subjects: int = 1) -> Scene:
        """Draw a scene of `count` shapes, distinct in colour and kind, that do not overlap, the subjects first."""
        return self.arranged([self.thing(*pair, among=count) for pair in self.pairs(count, subjects)])

    def thing(self, colour: str, kind: str, size: str = "", among: int = 1) -> Thing:
        """Draw a thing with random texture, shade and look, and a random size if none is given.

        Args:
            among: number of things of the picture: the more, the smaller they are.
        """
        if self.edition.radii is None:
            return Thing(kind, colour, size or self.one(tuple(SIZES)), self.texture(), shade=self.shade())
        radius = self.radius(size, among)
        look = self.look(kind, radius)
        texture = "plain" if look.hollow or radius < LEGIBLE else self.texture()
        angle = self.angle(self.edition.turned)
        return Thing(kind, colour, radius, texture, angle=angle, shade=self.shade(), look=look)

    def radius(self, size: str = "", among: int = 1) -> float:
        """Draw a radius, small ones as often as large ones."""
        least, most = self.edition.radii or tuple(SIZES.values())
        most = min(most, 0.1 if size == "small" else ROOM[min(among, len(ROOM)) - 1])
        return float(least * (most / least) ** self.random.random())

    def angle(self, most: float) -> float:
        """Draw an angle, 0 half the time."""
        return self.one((0.0, most * (2 * self.random.random() - 1)))

    def look(self, kind: str, radius: float) -> Look:
        """Draw a look of a kind of shape: filled, bordered, or an outline."""
        edition, stroke = self.edition, self.random.random()
        variant = self.count(0, len(VARIANTS[kind]) - 1) if edition.variants and self.chance(0.6) else 0
        stretch = self.one((1.0, 1.0, edition.stretched, 1 / edition.stretched)) ** self.random.random()
        edge, border = 0.0, None
        if stroke < 2 * edition.stroked:
            hollow = stroke < edition.stroked
            edge = 0.05 + (0.07 if hollow or kind in NARROW else 0.13) * self.random.random()
            edge = max(edge, min(0.2, THIN / radius)) if hollow else edge
            border = None if hollow else self.one(BORDERS)
        return Look(self.palette, variant, stretch, edge, border, stroke < edition.stroked)

    def shade(self) -> tuple[int, int, int]:
        """Draw an sRGB offset: lighter or darker, with a slight change of hue."""
        lighter = self.count(-SHADE, SHADE)
        red, green, blue = (lighter + self.count(-HUE, HUE) for _ in range(3))
        return red, green, blue

    def arranged(self, things: Sequence[Thing]) -> Scene:
        """Place things at random without overlap, on a background that contrasts with all of them."""
        places = self.layout([extent(thing) for thing in things])
        things = [
            replace(thing, x=x / self.width, y=y / self.height) for thing, (x, y) in zip(things, places, strict=True)
        ]
        return Scene(things, self.background([thing.colour for thing in things]))

    def writing(self) -> Thing:
        """Draw a word of random colour."""
        colour = self.one(tuple(COLOURS))
        if not (self.edition.lettered and self.chance(self.edition.lettered)):
            return Thing("word", colour, "large", word=self.word(), look=replace(PLAIN, palette=self.palette))
        font, angle = self.one(lettering.fonts()), self.angle(self.edition.turned / 4)
        word = self.text()
        half = lettering.extent(word, font)[0] * DOT * ROWS + 0.1
        radius = min(0.1 * 3 ** self.random.random(), 0.44 * self.width / half)
        return Thing("word", colour, radius, angle=angle, word=word, look=Look(self.palette, font=font))

    def layout(self, extents: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Draw centres of boxes (half width, half height) within the picture, without overlap, in units of its shorter
        side.

        Boxes for which `ROUNDS` rounds have found no room may overlap by a tenth, after as many more by another tenth.
        """
        rounds = 0
        while True:
            part = 0.9 ** (rounds // ROUNDS)
            boxes: list[Box] = []
            for half_width, half_height in extents:
                placed = self._placed(part * half_width, part * half_height, boxes)
                if placed is None:
                    rounds += 1
                    break  # Too crowded: start again.
                boxes.append(placed)
            else:
                return [(x, y) for x, y, _, _ in boxes]

    def _placed(self, half_width: float, half_height: float, others: Sequence[Box]) -> Box | None:
        left, top = half_width + GAP, half_height + GAP
        for _ in range(ATTEMPTS):
            x = left + self.random.random() * (self.width - 2 * left)
            y = top + self.random.random() * (self.height - 2 * top)
            for other_x, other_y, other_width, other_height in others:
                if abs(x - other_x) <= left + other_width and abs(y - other_y) <= top + other_height:
                    break
            else:
                return x, y, half_width, half_height
        return None

    def texture(self) -> str:
        """Draw a texture, "plain" half the time."""
        return "plain" if self.chance() else self.one(TEXTURES[1:])

    def word(self, longest: int = 4) -> str:
        """Draw a word of letters, or of digits, of this split."""
        characters, length = self.one(_CHARACTERS), self.count(1, longest)
        while True:
            word = "".join(self.one(characters) for _ in range(length))
            if length == 1 or split_of_word(word) == self.split:
                return word

    def text(self) -> str:
        """Draw a word of this split in capitals, small letters, both, or digits, whose case its letters show."""
        while True:
            if self.chance(0.15):
                word = "".join(self.one(digits) for _ in range(self.count(1, 6)))
            elif self.chance():
                word = "".join(self.one(SYLLABLES) for _ in range(self.count(1, 4)))
            else:
                word = "".join(self.one(ascii_lowercase) for _ in range(self.count(1, 6)))
            word = self.one((str.upper, str.lower, str.capitalize))(word)[: lettering.LONGEST - 2]
            clear = word.isdigit() or set(word.lower()) - ALIKE
            if clear and (len(word) == 1 or split_of_word(word) == self.split):
                return word

    def background(self, colours: Sequence[str], pattern: str = "") -> Background:
        """Draw a background with a contrast of at least CONTRAST to `colours`, else the best of ATTEMPTS.

        Args:
            pattern: one of the edition's by default. A photograph has other colours than its two, and more contrast.
        """
        pattern = pattern or self.one(self.edition.backgrounds)
        angle, seed = self.random.random(), self.count(0, 2**20)
        things = [PALETTES[self.palette][colour] for colour in colours]
        vivid = self.edition.vivid > 0 and self.chance(self.edition.vivid)
        best, most = Background(pattern), -1.0
        for _ in range(ATTEMPTS):
            first, second = self._vivid() if vivid else self._muted()
            contrast = _contrast(things, first, second)
            if contrast > most:
                best, most = Background(pattern, first, second, angle, seed), contrast
            if contrast >= (CONTRAST if pattern != "photograph" else 1.6 * CONTRAST) ** 2:
                break
        return best

    def _muted(self) -> tuple[Colour, Colour]:
        """Draw two colours near the same grey."""
        grey = self.count(40, 225)
        r, g, b, s, t, u = (min(max(grey + self.count(-28, 28), 0), 255) for _ in range(6))
        return (r, g, b), (s, t, u)

    def _vivid(self) -> tuple[Colour, Colour]:
        """Draw any two colours."""
        r, g, b, s, t, u = (self.count(0, 255) for _ in range(6))
        return (r, g, b), (s, t, u)


def _contrast(things: Sequence[Colour], first: Colour, second: Colour) -> float:
    """Return the least squared distance of the things' colours from two colours and their mean."""
    (r, g, b), (s, t, u) = first, second
    behind = (first, second, ((r + s) / 2, (g + t) / 2, (b + u) / 2))
    return min(
        ((x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2 for x, y, z in things for r, g, b in behind), default=float("inf")
    )


def extent(thing: Thing) -> tuple[float, float]:
    """Return half the width and half the height of a thing at any rotation, relative to the shorter side."""
    if thing.kind != "word":
        return thing.radius, thing.radius
    if thing.look.font:
        across, down = (DOT * ROWS * thing.radius * half for half in lettering.extent(thing.word, thing.look.font))
        sine, cosine = abs(sin(2 * pi * thing.angle)), cos(2 * pi * thing.angle)
        return across * cosine + down * sine, across * sine + down * cosine
    dot = DOT * thing.radius
    return 3 * len(thing.word) * dot, 3.5 * dot


def apart(thing: Thing, other: Thing, width: float, height: float) -> bool:
    """Whether the boxes of two things are GAP apart, in a picture of `width` × `height` shorter sides."""
    dx, dy = abs(thing.x - other.x) * width, abs(thing.y - other.y) * height
    (a, b), (c, d) = extent(thing), extent(other)
    return dx > a + c + GAP or dy > b + d + GAP
