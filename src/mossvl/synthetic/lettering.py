"""Letters and digits of real fonts, as bitmaps of signed distances; `lettering.npz` holds them.

`python -m mossvl.synthetic.lettering FONT…` draws them from TrueType and OpenType files. docs/tiny.md lists the fonts,
with their licences.
"""

from functools import cache
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHARACTERS = ascii_letters + digits
CAPITAL, ROWS, PAD = 14, 28, 4
"""Rows of a capital, rows of a bitmap, and columns that a bitmap has on either side of its character."""
BASELINE = 20
"""Row on which characters stand, so that a capital is in the middle third."""
LONGEST, COLUMNS = 10, 192
"""Characters of a word in a font, and columns of its bitmap."""
STEPS = 32
"""Steps of a bitmap's values for one row; 128 is on the outline, above is inside."""
FILE = Path(__file__).with_name("lettering.npz")


@cache
def _drawn() -> tuple[dict[str, int], list[list[NDArray[np.uint8]]], NDArray[np.int64]]:
    """Return the numbers of fonts by name; bitmaps and advances, in columns, by font and character."""
    with np.load(FILE) as held:
        names, drawn, widths, advances = (held[name] for name in ("fonts", "columns", "widths", "advances"))
    bitmaps = np.split(drawn, np.cumsum(widths)[:-1], axis=1)
    of_font = [bitmaps[start : start + len(CHARACTERS)] for start in range(0, len(bitmaps), len(CHARACTERS))]
    return {str(name): number for number, name in enumerate(names)}, of_font, advances.astype(np.int64)


def fonts() -> tuple[str, ...]:
    """Return the names of all fonts."""
    return tuple(_drawn()[0])


def check_written(word: str, font: str) -> None:
    """Check a word of a font.

    Raises:
        ValueError: the font is unknown, the word has other characters than letters and digits, or is too long.
    """
    if font not in _drawn()[0]:
        raise ValueError(f"{font!r} is none of {', '.join(fonts())}")
    if not word or len(word) > LONGEST or set(word) - set(CHARACTERS) or columns(word, font) > COLUMNS:
        raise ValueError(f"{word!r} cannot be written: at most {LONGEST} letters and digits")


def columns(word: str, font: str) -> int:
    """Return the columns of a word's bitmap."""
    numbers, _, advances = _drawn()
    return 2 * PAD + int(advances[numbers[font], [CHARACTERS.index(character) for character in word]].sum())


def extent(word: str, font: str) -> tuple[float, float]:
    """Return half the width and half the height of a word, in heights of a capital."""
    return (columns(word, font) / 2 - PAD) / CAPITAL, 0.8


def bitmap(word: str, font: str) -> NDArray[np.uint8]:
    """Return the bitmap of a word, uint8 (ROWS, COLUMNS), from column PAD on."""
    numbers, bitmaps, advances = _drawn()
    number, written, at = numbers[font], np.zeros((ROWS, COLUMNS), dtype=np.uint8), 0
    for character in word:
        index = CHARACTERS.index(character)
        drawn = bitmaps[number][index]
        place = written[:, at : at + drawn.shape[1]]
        np.maximum(place, drawn[:, : place.shape[1]], out=place)
        at += int(advances[number, index])
    return written


# --- drawing the bitmaps -----------------------------------------------------------------------------------------

FINE = 8
"""Pixels of a drawn character in one row of its bitmap."""


def _distances(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Turn a drawn character, FINE times as large, into its bitmap."""
    height, width = (side // FINE for side in inside.shape)
    padded = np.pad(inside, 1)
    near = [np.roll(padded, step, axis) for axis in (0, 1) for step in (1, -1)]
    edge = np.argwhere((padded & ~np.logical_and.reduce(near))[1:-1, 1:-1]) + 0.5
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    points = FINE * np.stack([rows.ravel(), columns.ravel()], axis=1)
    nearest = np.sqrt(((points[:, None] - edge[None]) ** 2).sum(2).min(1)).reshape(height, width) / FINE
    centres = inside.reshape(height, FINE, width, FINE)[:, FINE // 2, :, FINE // 2]
    return np.clip(128 + STEPS * np.where(centres, nearest, -nearest), 0, 255).astype(np.uint8)


def draw(files: list[Path]) -> dict[str, Any]:
    """Draw the characters of fonts, as the arrays of `lettering.npz`."""
    from PIL import Image, ImageDraw, ImageFont

    drawn, widths, advances = [], [], []
    for file in files:
        probe = ImageFont.truetype(str(file), 1000)
        _, top, _, bottom = probe.getbbox("H", anchor="ls")
        font = ImageFont.truetype(str(file), round(1000 * CAPITAL * FINE / (bottom - top)))
        lengths = [round(font.getlength(character) / FINE) for character in CHARACTERS]
        for character, length in zip(CHARACTERS, lengths, strict=True):
            canvas = Image.new("L", ((length + 2 * PAD) * FINE, ROWS * FINE))
            ImageDraw.Draw(canvas).text((PAD * FINE, BASELINE * FINE), character, 255, font, anchor="ls")
            drawn.append(_distances(np.asarray(canvas) > 127))
            widths.append(length + 2 * PAD)
        advances.append(lengths)
    names = np.array([file.stem for file in files])
    return {"fonts": names, "columns": np.hstack(drawn), "widths": np.array(widths), "advances": np.array(advances)}


if __name__ == "__main__":
    import sys

    np.savez_compressed(FILE, **draw([Path(name) for name in sys.argv[1:]]))
