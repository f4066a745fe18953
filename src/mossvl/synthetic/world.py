"""Random scenes, and which of them belong to training, validation and test.

Splits are disjoint by construction. A colour and a kind of shape together belong to one split, each colour and each
kind by itself to all: what is asked about in a test scene is a pair that no training scene has ever shown. Words are
split by their letters.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mossvl.synthetic.glyphs import GLYPHS
from mossvl.synthetic.scene import BACKGROUNDS, COLOURS, DOT, SIZES, TEXTURES, Background, Scene, Thing
from mossvl.synthetic.shapes import KINDS

T = TypeVar("T")

GAP = 0.02
"""Between things, and between them and the picture's border, in parts of the shorter side."""
CONTRAST = 70
"""Least distance of a thing's colour from its background's colours, in sRGB."""
ATTEMPTS = 200


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


PAIRS = {
    split: [(colour, kind) for colour in COLOURS for kind in KINDS if split_of(colour, kind) == split]
    for split in Split
}


class World:
    """Draws scenes of one split; the same seed gives the same ones.

    Args:
        aspect: width over height of the pictures.
    """

    def __init__(self, split: Split, seed: int, aspect: float = 1.0) -> None:
        self.split, self.aspect = split, aspect
        self.random = np.random.default_rng([list(Split).index(split), seed])

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self.random.integers(len(choices)))]

    def count(self, least: int, most: int) -> int:
        return int(self.random.integers(least, most + 1))

    def scene(self, count: int, subjects: int = 1) -> Scene:
        """So many shapes, no two of the same colour and kind, apart from each other, the subjects first.

        Args:
            subjects: how many are of this split; the others are of the training's pairs, as in every split.
        """
        pairs = self.distinct(PAIRS[self.split], min(subjects, count))
        pairs += self.distinct([pair for pair in PAIRS[Split.TRAIN] if pair not in pairs], count - len(pairs))
        return self.arranged([Thing(kind, colour, self.one(list(SIZES)), self.texture()) for colour, kind in pairs])

    def arranged(self, wanted: Sequence[Thing]) -> Scene:
        """These things, each somewhere and apart from the others, before a background that all stand out from."""
        things: list[Thing] = []
        while len(things) < len(wanted):
            placed = self._placed(wanted[len(things)], things)
            if placed is None:
                things = []  # Too crowded: once more from the beginning.
            else:
                things.append(placed)
        return Scene(things, self.background([thing.colour for thing in things]))

    def texture(self) -> str:
        """Half of all things are plain."""
        return "plain" if self.random.random() < 0.5 else self.one(TEXTURES[1:])

    def word(self, longest: int = 4) -> str:
        """A word of letters or a number, of this split."""
        digits = self.random.random() < 0.5
        characters = [one for one in GLYPHS if one.isdigit() == digits]
        while True:
            letters = [self.one(characters) for _ in range(self.random.integers(1, longest + 1))]
            word = "".join(letters)
            if split_of_word(word) == self.split:
                return word

    def background(self, colours: Sequence[str]) -> Background:
        """A muted one that things of these colours stand out from: by CONTRAST, or if they leave no room for that, by
        as much as one of many does."""
        pattern = self.one(BACKGROUNDS)
        things = np.array([COLOURS[colour] for colour in colours]).reshape(-1, 3)
        best, most = Background(pattern), -1.0
        for _ in range(ATTEMPTS):
            grey = self.random.integers(40, 226)
            first, second = np.clip(grey + self.random.integers(-28, 29, (2, 3)), 0, 255)
            between = np.linspace(first, second, 3)
            contrast = np.linalg.norm(things[:, None] - between, axis=2).min(initial=np.inf)
            if contrast > most:
                angle, seed = self.random.random(), self.count(0, 2**20)
                best, most = Background(pattern, _rgb(first), _rgb(second), angle, seed), contrast
            if contrast >= CONTRAST:
                break
        return best

    def distinct(self, choices: Sequence[T], count: int) -> list[T]:
        """So many of the choices, in random order."""
        return [choices[index] for index in self.random.permutation(len(choices))[:count]]

    def _placed(self, thing: Thing, others: Sequence[Thing]) -> Thing | None:
        """The thing somewhere within the picture and apart from others; None if no place was found."""
        width, height = max(self.aspect, 1.0), max(1 / self.aspect, 1.0)
        half_width, half_height = extent(thing)
        for _ in range(ATTEMPTS):
            x = self.random.uniform(half_width + GAP, width - half_width - GAP) / width
            y = self.random.uniform(half_height + GAP, height - half_height - GAP) / height
            placed = replace(thing, x=x, y=y)
            if all(apart(placed, other, width, height) for other in others):
                return placed
        return None


def _rgb(values: NDArray[np.int64]) -> tuple[int, int, int]:
    red, green, blue = values.tolist()
    return red, green, blue


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
