"""Contact sheet: the frames of a video in a grid, each with its timestamp."""

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mossvl.errors import InputError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

MAX_WIDTH, MAX_HEIGHT, MIN_WIDTH = 2400, 16_000, 480
SHAPE = 4 / 3
"""Target of a sheet's width / height."""
MARGIN, GAP = 24, 12
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 24, 16, 16
STRIP = LABEL_SIZE + 8
"""Height of the label under a frame."""
PAPER, INK, FAINT = "#16181d", "#f2f2f2", "#9aa0aa"


@dataclass(frozen=True)
class SheetLayout:
    """A grid of frames, each `width` × `height` pixels and centred in a cell that is `cell` pixels wide."""

    columns: int
    rows: int
    width: int
    height: int
    cell: int

    @classmethod
    def fit(cls, frames: int, width: int, height: int, label: int) -> "SheetLayout":
        """Lay out frames of width × height pixels in cells at least `label` pixels wide; never enlarge frames."""
        room = MAX_WIDTH - 2 * MARGIN + GAP
        columns = round(math.sqrt(frames * SHAPE * (height + STRIP + GAP) / (max(width, label) + GAP)))
        columns = min(max(columns, 1), frames, room // (label + GAP))
        rows = math.ceil(frames / columns)
        columns = math.ceil(frames / rows)
        scale = min(1.0, (room / columns - GAP) / width, ((MAX_HEIGHT - 200) / rows - STRIP - GAP) / height)
        thumb = max(1, int(width * scale)), max(1, int(height * scale))
        return cls(columns, rows, *thumb, max(thumb[0], label))

    def corner(self, index: int) -> tuple[int, int]:
        """Return left and top of a frame in the grid, in pixels."""
        row, column = divmod(index, self.columns)
        left = column * (self.cell + GAP) + (self.cell - self.width) // 2
        return left, row * (self.height + STRIP + GAP)


def draw_sheet(
    frames: "Iterable[Image.Image]", timestamps: Sequence[float], size: tuple[int, int], title: str, text: str
) -> "Image.Image":
    """Draw a contact sheet.

    Args:
        frames: one for each timestamp, read one at a time, all of `size` (width, height).
        timestamps: in seconds.
        title, text: the two lines at the top, truncated to the sheet's width.
    """
    from PIL import Image, ImageDraw, ImageFont

    fonts = {size: ImageFont.load_default(size=size) for size in (TITLE_SIZE, TEXT_SIZE, LABEL_SIZE)}
    labels = [f"{time:.1f} s" for time in timestamps]
    widest = max(math.ceil(fonts[LABEL_SIZE].getlength(label)) for label in labels)
    layout = SheetLayout.fit(len(labels), *size, label=widest)
    top = MARGIN + TITLE_SIZE + TEXT_SIZE + 2 * GAP
    inner = layout.columns * (layout.cell + GAP) - GAP
    width = max(inner + 2 * MARGIN, MIN_WIDTH)
    height = top + layout.rows * (layout.height + STRIP + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), cut(title, fonts[TITLE_SIZE], width - 2 * MARGIN), INK, fonts[TITLE_SIZE], anchor="la")
    below = (MARGIN, MARGIN + TITLE_SIZE + GAP // 2)
    pen.text(below, cut(text, fonts[TEXT_SIZE], width - 2 * MARGIN), FAINT, fonts[TEXT_SIZE], anchor="la")
    indent = (width - inner) // 2
    for index, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        left, upper = layout.corner(index)
        left, upper = left + indent, upper + top
        sheet.paste(frame.resize((layout.width, layout.height), Image.Resampling.LANCZOS), (left, upper))
        middle = (left + layout.width / 2, upper + layout.height + STRIP / 2)
        pen.text(middle, label, INK, fonts[LABEL_SIZE], anchor="mm")
    return sheet


def cut(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: float) -> str:
    """Truncate `text` to `width` pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def save_png(image: "Image.Image", path: Path) -> None:
    """Write a PNG file atomically.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format="PNG")
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        raise
