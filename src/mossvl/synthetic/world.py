"""Random scenes of the training, validation and test splits.

Splits are disjoint by construction. Each pair of colour and kind belongs to one split, each colour and each kind alone
to all: test questions are about pairs that no training scene shows. Words of two or more characters are split by a
hash; single characters belong to all splits.
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
"""Centre x and y, half the width, half the height."""

GAP = 0.02
"""Least gap between things, and to the picture's border, relative to the shorter side."""
CONTRAST = 70
"""Least distance of a thing's colour from its background's colours, in sRGB."""
SHADE, HUE = 15, 10
"""Largest variation of colours, in sRGB: of all channels together, and of each channel."""
ATTEMPTS = 50
"""Places tried for a thing, and backgrounds tried for a picture."""


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
    """

    def __init__(self, split: Split, seed: int | str, aspect: float = 1.0) -> None:
        self.split, self.aspect = split, aspect
        self.width, self.height = max(aspect, 1.0), max(1 / aspect, 1.0)
        self.random = Random(f"{split} {seed}")

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
        return self.arranged([self.thing(*pair) for pair in self.pairs(count, subjects)])

    def thing(self, colour: str, kind: str, size: str = "") -> Thing:
        """Draw a thing with random texture and shade, and a random size if none is given."""
        return Thing(kind, colour, size or self.one(tuple(SIZES)), self.texture(), shade=self.shade())

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

    def layout(self, extents: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Draw centres of boxes (half width, half height) within the picture, without overlap, in units of its shorter
        side."""
        while True:
            boxes: list[Box] = []
            for half_width, half_height in extents:
                placed = self._placed(half_width, half_height, boxes)
                if placed is None:
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

    def background(self, colours: Sequence[str]) -> Background:
        """Draw a muted background with a contrast of at least CONTRAST to `colours`, else the best of ATTEMPTS."""
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
        """Draw two colours near the same grey."""
        grey = self.count(40, 225)
        r, g, b, s, t, u = (min(max(grey + self.count(-28, 28), 0), 255) for _ in range(6))
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
    dot = DOT * thing.radius
    return 3 * len(thing.word) * dot, 3.5 * dot


def apart(thing: Thing, other: Thing, width: float, height: float) -> bool:
    """Whether the boxes of two things are GAP apart, in a picture of `width` × `height` shorter sides."""
    dx, dy = abs(thing.x - other.x) * width, abs(thing.y - other.y) * height
    (a, b), (c, d) = extent(thing), extent(other)
    return dx > a + c + GAP or dy > b + d + GAP
