"""Corrections of PNG files before Pillow decodes them."""

import io
from bisect import bisect_right
from itertools import accumulate
from typing import IO, Any

from PIL.PngImagePlugin import PngImageFile

_SIGNATURE_BYTES = 8
_UNUSED = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


def without_texts(file: IO[bytes]) -> IO[bytes]:
    """Return a view of a PNG without text and colour profile chunks: Pillow refuses an image whose texts are long."""
    pieces, place = [(0, _SIGNATURE_BYTES)], _SIGNATURE_BYTES
    file.seek(place)
    while len(header := file.read(8)) == 8:
        length = 12 + int.from_bytes(header[:4], "big")
        if header[4:] not in _UNUSED:
            start, before = pieces[-1]
            if start + before == place:
                pieces[-1] = start, before + length
            else:
                pieces.append((place, length))
        place += length
        file.seek(place)
    return io.BufferedReader(_Pieces(file, pieces))


class _Pieces(io.RawIOBase):
    """A read-only view of a file: the concatenation of its pieces (start, length)."""

    def __init__(self, file: IO[bytes], pieces: list[tuple[int, int]]) -> None:
        self._file = file
        self._starts = [start for start, _ in pieces]
        self._ends = list(accumulate(length for _, length in pieces))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._ends[-1])[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._ends, self._place)
        if number == len(self._ends):
            return 0
        left = self._ends[number] - self._place
        self._file.seek(self._starts[number] + self._place - (self._ends[number - 1] if number else 0))
        data = self._file.read(min(left, len(buffer)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def scale_transparent_value(image: PngImageFile) -> None:
    """Scale the tRNS colour from the file's bit depth to the 8 bits of Pillow's pixels."""
    stored = image.tile[0][3] if image.tile else None  # None once decoded, when the colour is scaled already.
    value = image.info.get("transparency")
    if stored in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * (85 if stored == "L;2" else 17)
    if stored == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)
