"""Bitmaps of capital letters and digits, 5 × 7 dots."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COLUMNS, ROWS = 5, 7

_DRAWN = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "G": "01111 10000 10000 10011 10001 10001 01111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "I": "11111 00100 00100 00100 00100 00100 11111",
    "J": "00111 00010 00010 00010 00010 10010 01100",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10011 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "Q": "01110 10001 10001 10001 10101 10010 01101",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "V": "10001 10001 10001 10001 10001 01010 00100",
    "W": "10001 10001 10001 10101 10101 11011 10001",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
    "0": "01110 10011 10101 10101 10101 11001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "01110 10000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00001 01110",
}

GLYPHS = {character: [[dot == "1" for dot in row] for row in rows.split(" ")] for character, rows in _DRAWN.items()}

_NUMBER = {character: number for number, character in enumerate(GLYPHS)}
_BITS = np.pad(np.array(list(GLYPHS.values())) @ (1 << np.arange(COLUMNS)), ((0, 1), (1, 1))).astype(np.int32)
"""(characters + 1, ROWS + 2): rows of each character, one bit a column, between two empty rows; the last is empty."""


def dots(words: Sequence[str], longest: int) -> NDArray[np.int32]:
    """Return the bitmaps of words, int32 (words, ROWS + 2), one bit a dot, with an empty border.

    A word's first column is bit 1; an empty column follows every character; the first and the last row are empty.
    """
    numbers = [[_NUMBER[character] for character in word] + [-1] * (longest - len(word)) for word in words]
    shifts = 1 + (COLUMNS + 1) * np.arange(longest, dtype=np.int32)
    placed = _BITS[np.array(numbers, dtype=np.int64).reshape(-1, longest)] << shifts[:, None]
    rows: NDArray[np.int32] = placed.sum(1, dtype=np.int32)
    return rows
