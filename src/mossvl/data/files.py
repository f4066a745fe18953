"""Records of JSON files, JSON-lines files and folders of them, one in memory at a time."""

import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mossvl.data.records import BOM, EXAMPLE_KEYS, LONGEST, Line, lines_of, parse_line
from mossvl.errors import DataError

SHARDS = (".jsonl", ".json")
"""Names of the files in a folder that are read, by their ends."""
CHUNK = 1 << 20
"""Characters of a JSON file that are read at a time."""
HEAD = 1 << 16
"""Bytes in which the key of a list is looked for."""
OTHER_FORMS = {
    b"PAR1": "Parquet; export its rows as JSON lines",
    b"ARROW1": "Arrow; export its rows as JSON lines",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"PK\x03\x04": "packed by zip; unpack it",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}
"""What files begin with that hold no JSON, and what is to be done with them."""
LIST_OF_OBJECTS = re.compile(rb'"([^"\\]+)"\s*:\s*\[\s*\{')
SPACE = " \t\n\r"


@dataclass(frozen=True)
class Record:
    """A record, or what is wrong where one should be.

    Attributes:
        file: where it is.
        place: "line 3", or "record 3" of a JSON list, counted from 1.
        value: the object, or the error that there is instead.
    """

    file: Path
    place: str
    value: dict[str, Any] | DataError

    @property
    def where(self) -> str:
        return f"{self.file}: {self.place}"


def shards_of(path: Path) -> list[Path]:
    """The file, or a folder's files by name.

    Raises:
        DataError: there is no such file, or the folder has none.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a .jsonl or .json file, or a folder of them")
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SHARDS and file.is_file())
    if not found:
        raise DataError(f"{path} holds no file whose name ends with {' or '.join(SHARDS)}")
    return found


def records_of(path: str | Path) -> Iterator[Record]:
    """All records of a file or a folder, in order. A bad line costs itself only; a broken list, what follows in it.

    A file that begins with `[` is a list of objects; in any other, every line that is not empty is an object.

    Raises:
        DataError: there is no such file, or the folder has none.
        OSError: a file cannot be read.
    """
    for file in shards_of(Path(path)):
        with open(file, "rb") as opened:
            for piece in pieces_of(opened):
                yield record_of(file, piece)


@dataclass(frozen=True)
class Item:
    """An item of a JSON list, or the error that ends the list.

    Attributes:
        number: from 1.
        start, length: its bytes in the file; an error has none.
        value: what was parsed.
    """

    number: int
    start: int
    length: int
    value: Any


def pieces_of(file: BinaryIO) -> Iterator[Line | Item]:
    """A file's items if it is a list, else its lines, which are not parsed yet; one in memory at a time."""
    other = other_form(file)
    if other is not None:
        return iter([Item(1, 0, 0, other)])
    file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
    character = file.read(1)
    while character and character in SPACE.encode():
        character = file.read(1)
    if character == b"[":
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        return items_of(text, file.tell())
    file.seek(0)
    return lines_of(file)


def other_form(file: BinaryIO) -> DataError | None:
    """What is wrong with a file as a whole; it is read from its beginning, and left there."""
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    for start, advice in OTHER_FORMS.items():
        if head.startswith(start):
            return DataError(f"the file is {advice}")
    first, second = (*itertools.islice(lines_of(file), 2), None, None)[:2]
    file.seek(0)
    if first is None or second is None or not first.text.startswith(b"{"):
        return None
    try:
        parse_line(first)
    except DataError:
        # A line that was cut off is followed by other objects, or does not end where one goes on.
        if first.text[-1:] in b"{[,:" or not second.text.startswith(b"{"):
            found = LIST_OF_OBJECTS.search(head)
            inner = None if found is None else found[1].decode(errors="replace")
            advice = "write it on one line" if inner in (None, *EXAMPLE_KEYS) else f"give the list under {inner!r}"
            return DataError(
                f"the file is one object over several lines; expected an object a line, or a list: {advice}"
            )
    return None


def record_of(file: Path, piece: Line | Item) -> Record:
    """The record that a line or an item is, or what is wrong with it."""
    if isinstance(piece, Line):
        try:
            return Record(file, f"line {piece.number}", parse_line(piece))
        except DataError as error:
            return Record(file, f"line {piece.number}", error)
    place, value = f"record {piece.number}", piece.value
    if not isinstance(value, dict | DataError):
        value = DataError(f"{place} is {type(value).__name__} {value!r:.80}; expected an object {{…}}")
    return Record(file, place, value)


def items_of(text: TextIO, start: int = 0) -> Iterator[Item]:
    """Items of a JSON list whose `[` has been read; the last is an error if the list is broken there, or is cut off.

    Args:
        text: UTF-8 with surrogate escapes, line ends untouched, so that bytes can be counted.
        start: byte of the file where it begins.
    """
    decoder = json.JSONDecoder()
    reader = _Reader(text, start)
    for number in itertools.count(1):
        try:
            if not reader.finds_item(first=number == 1):
                return
            begin, value = reader.byte, reader.decode(decoder)
        except DataError as error:
            yield Item(number, reader.byte, 0, error)
            return
        yield Item(number, begin, reader.byte - begin, value)


class _Reader:
    """A part of a text file, and a place in it: a character of the part, and a byte of the file."""

    def __init__(self, text: TextIO, byte: int) -> None:
        self.text, self.buffer, self.at, self.byte, self.size = text, "", 0, byte, CHUNK

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        read = self.text.read(self.size)
        self.buffer, self.at = self.buffer[self.at :] + read, 0
        return bool(read)

    def advance(self, to: int) -> None:
        """Go to this character of the buffer."""
        self.byte += len(self.buffer[self.at : to].encode(errors="surrogateescape"))
        self.at = to

    def finds_item(self, first: bool) -> bool:
        """Go to the next item; False at the end of the list.

        Raises:
            DataError: there is neither.
        """
        character = self.peek()
        if character == "]":
            return False
        if not first:
            if character != ",":
                raise DataError(f"expected a comma or the list's end, but found {character or 'the end of the file'!r}")
            self.advance(self.at + 1)
            self.peek()
        return True

    def peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            end = self.at
            while end < len(self.buffer) and self.buffer[end] in SPACE:
                end += 1
            self.advance(end)
            if self.at < len(self.buffer) or not self.more():
                return self.buffer[self.at : self.at + 1]

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """The value that begins here. What ends with the buffer may go on behind it: more is read first.

        Raises:
            DataError: it is not JSON, or is cut off.
        """
        self.size = CHUNK
        while True:
            problem = None
            try:
                value, end = decoder.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                problem, end = error, len(self.buffer)
            if end == len(self.buffer):
                if len(self.buffer) < LONGEST and self.more():
                    self.size *= 2  # An item of many chunks is not parsed anew for each of them.
                    continue
                end = len(self.buffer)  # which begins at this item now
            if problem is not None:
                raise DataError(f"not JSON, or cut off ({problem})") from problem
            self.advance(end)
            return value
