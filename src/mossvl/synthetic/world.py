"""Random scenes, and which of them belong to training, validation and test.

Splits are disjoint by construction. A colour and a kind of shape together belong to one split, each colour and each
kind by itself to all: what is asked about in a test scene is a pair that no training scene has ever shown. Words of two
letters or more are split by their letters; single ones belong to all splits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from random import Random
from typing import TypeVar

from mossvl.synthetic.glyphs import GLYPHS
from mossvl.synthetic.scene import BACKGROUNDS, COLOURS, DOT, SIZES, TEXTURES, Background, Scene, Thing
from mossvl.synthetic.shapes import KINDS

T = TypeVar("T")
Pair = tuple[str, str]
"""A colour and a kind of shape."""
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Centre, half the width, half the height."""

GAP = 0.02
"""Between things, and between them and the picture's border, in parts of the shorter side."""
CONTRAST = 70
"""Least distance of a thing's colour from its background's colours, in sRGB."""
SHADE, HUE = 15, 10
"""How far colours vary, in sRGB: all three parts alike, and each by itself."""
ATTEMPTS = 50
"""Places that are tried for a thing, and backgrounds for a picture."""


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def split_of(colour: str, kind: str) -> Split:
    """Of every ten colours of a kind, one is for testing and one for validation, and so for the kinds of a colour."""
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
"""What scenes of a split may show: its own pairs, and the training's beside them."""
_OWN = {split: frozenset(pairs) for split, pairs in PAIRS.items()}
_CHARACTERS = [[one for one in GLYPHS if one.isdigit() == digits] for digits in (False, True)]


class World:
    """Draws scenes of one split; the same seed gives the same ones.

    Args:
        aspect: width over height of the pictures.
    """

    def __init__(self, split: Split, seed: int | str, aspect: float = 1.0) -> None:
        self.split, self.aspect = split, aspect
        self.width, self.height = max(aspect, 1.0), max(1 / aspect, 1.0)
        self.random = Random(f"{split} {seed}")

    def chance(self, probability: float = 0.5) -> bool:
        return self.random.random() < probability

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self.random.random() * len(choices))]

    def count(self, least: int, most: int) -> int:
        return least + int(self.random.random() * (most + 1 - least))

    def distinct(self, choices: Sequence[T], count: int) -> list[T]:
        """So many of the choices, in random order; all of them if there are no more."""
        return self.random.sample(choices, min(count, len(choices)))

    def owns(self, colour: str, kind: str) -> bool:
        """Whether a pair is of this split, and so may be asked about."""
        return (colour, kind) in _OWN[self.split]

    def pairs(self, count: int, subjects: int = 1) -> list[Pair]:
        """So many pairs, all different, the subjects first: these are of this split, the others of the training's, as
        in every split."""
        chosen = self.distinct(PAIRS[self.split], min(subjects, count))
        for pair in self.distinct(PAIRS[Split.TRAIN], count):
            if len(chosen) < count and pair not in chosen:
                chosen.append(pair)
        return chosen

    def alike(self, pair: Pair, shown: Sequence[Pair], position: int | None = None) -> Pair:
        """Another pair that this split may show, and that is not shown, of the same colour or the same kind.

        Args:
            position: what differs: 0 for the colour, 1 for the kind, None for either.
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
        """So many shapes, no two of the same colour and kind, apart from each other, the subjects first."""
        return self.arranged([self.thing(*pair) for pair in self.pairs(count, subjects)])

    def thing(self, colour: str, kind: str, size: str = "") -> Thing:
        """A thing of any size, if none is given, any texture, and some shade of its colour."""
        return Thing(kind, colour, size or self.one(tuple(SIZES)), self.texture(), shade=self.shade())

    def shade(self) -> tuple[int, int, int]:
        """Lighter or darker, and a little of another hue."""
        lighter = self.count(-SHADE, SHADE)
        red, green, blue = (lighter + self.count(-HUE, HUE) for _ in range(3))
        return red, green, blue

    def arranged(self, wanted: Sequence[Thing]) -> Scene:
        """These things, each somewhere and apart from the others, before a background that all stand out from."""
        places = self.layout([extent(thing) for thing in wanted])
        things = [
            replace(thing, x=x / self.width, y=y / self.height) for thing, (x, y) in zip(wanted, places, strict=True)
        ]
        return Scene(things, self.background([thing.colour for thing in things]))

    def layout(self, extents: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Centres for boxes of half these widths and heights, within the picture and apart from each other, in parts
        of its shorter side."""
        while True:
            boxes: list[Box] = []
            for half_width, half_height in extents:
                placed = self._placed(half_width, half_height, boxes)
                if placed is None:
                    break  # Too crowded: once more from the beginning.
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
        """Half of all things are plain."""
        return "plain" if self.chance() else self.one(TEXTURES[1:])

    def word(self, longest: int = 4) -> str:
        """A word of letters or a number, of this split."""
        characters, length = self.one(_CHARACTERS), self.count(1, longest)
        while True:
            word = "".join(self.one(characters) for _ in range(length))
            if length == 1 or split_of_word(word) == self.split:
                return word

    def background(self, colours: Sequence[str]) -> Background:
        """A muted one that things of these colours stand out from: by CONTRAST, or if they leave no room for that, by
        as much as one of many does."""
        pattern, angle, seed = self.one(BACKGROUNDS), self.random.random(), self.count(0, 2**20)
        things = [COLOURS[colour] for colour in colours]
        best, most = Background(pattern), -1.0
        for _ in range(ATTEMPTS):
            first, second = self._muted()
            contrast = _contrast(things, first, second)
            if contrast > most:
                best, most = Background(pattern, first, second, angle, seed), contrast
            if contrast >= CONTRAST**2:
                break
        return best

    def _muted(self) -> tuple[Colour, Colour]:
        """Two colours near the same grey."""
        grey = self.count(40, 225)
        r, g, b, s, t, u = (min(max(grey + self.count(-28, 28), 0), 255) for _ in range(6))
        return (r, g, b), (s, t, u)


def _contrast(things: Sequence[Colour], first: Colour, second: Colour) -> float:
    """Least squared distance of the things' colours from two colours and the one halfway between them."""
    (r, g, b), (s, t, u) = first, second
    behind = (first, second, ((r + s) / 2, (g + t) / 2, (b + u) / 2))
    return min(
        ((x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2 for x, y, z in things for r, g, b in behind), default=float("inf")
    )


def extent(thing: Thing) -> tuple[float, float]:
    """Half the width and half the height that a thing needs, in parts of the shorter side, however it is turned."""
    if thing.kind != "word":
        return thing.radius, thing.radius
    dot = DOT * thing.radius
    return 3 * len(thing.word) * dot, 3.5 * dot


def apart(thing: Thing, other: Thing, width: float, height: float) -> bool:
    """The boxes around two things have a gap between them, in a picture of that width and height."""
    dx, dy = abs(thing.x - other.x) * width, abs(thing.y - other.y) * height
    (a, b), (c, d) = extent(thing), extent(other)
    return dx > a + c + GAP or dy > b + d + GAP
