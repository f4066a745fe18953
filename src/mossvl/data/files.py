"""Records of JSON files, JSON-lines files and folders of them, one in memory at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mossvl.data.records import lines_of, parse_line
from mossvl.errors import DataError

SHARDS = (".jsonl", ".json")
"""Names of the files in a folder that are read, by their ends."""
CHUNK = 1 << 20
"""Characters of a JSON file that are read at a time."""
LONGEST = 1 << 28
"""Characters of one item; what is longer is taken for broken."""
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
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as text:
            start = _skip_space(text)
            if start == "[":
                yield from _listed(file, text)
                continue
        with open(file, "rb") as lines:
            for line in lines_of(lines):
                try:
                    yield Record(file, f"line {line.number}", parse_line(line))
                except DataError as error:
                    yield Record(file, f"line {line.number}", error)


def _skip_space(text: TextIO) -> str:
    """The first character that is no space, which is then read; "" if there is none."""
    character = text.read(1)
    while character and character in SPACE:
        character = text.read(1)
    return character


def _listed(file: Path, text: TextIO) -> Iterator[Record]:
    number = 0
    try:
        for number, value in enumerate(items_of(text), 1):
            place = f"record {number}"
            if not isinstance(value, dict):
                value = DataError(f"{place} is {type(value).__name__} {value!r:.80}; expected an object {{…}}")
            yield Record(file, place, value)
    except DataError as error:
        yield Record(file, f"record {number + 1}", error)


def items_of(text: TextIO) -> Iterator[Any]:
    """Items of a JSON list whose `[` has been read.

    Raises:
        DataError: it is not JSON from some item on, or is cut off.
    """
    decoder = json.JSONDecoder()
    reader = _Reader(text)
    first = True
    while True:
        character = reader.peek()
        if character == "]":
            return
        if not first:
            if character != ",":
                raise DataError(f"expected a comma or the list's end, but found {character or 'the end of the file'!r}")
            reader.at += 1
            reader.peek()
        yield reader.decode(decoder)
        first = False


class _Reader:
    """A part of a text file, and a place in it."""

    def __init__(self, text: TextIO) -> None:
        self.text, self.buffer, self.at, self.size = text, "", 0, CHUNK

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        read = self.text.read(self.size)
        self.buffer, self.at = self.buffer[self.at :] + read, 0
        return bool(read)

    def peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.buffer) or not self.more():
                return self.buffer[self.at : self.at + 1]

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """The value that begins here. What ends with the buffer may go on behind it: more is read first."""
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
            self.at = end
            return value
