"""Records of JSON, JSON Lines, Parquet and Arrow files and folders of them, streamed one by one."""

import io
import itertools
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mossvl.data.forms import COMMON_KEYS, READ_KEYS
from mossvl.data.naming import Naming
from mossvl.data.records import BOM, LONGEST, Line, lines_of, parse_line
from mossvl.data.tables import MAGIC, row_of, rows_in, table_format
from mossvl.errors import DataError

SHARDS = (".jsonl", ".json", ".parquet", ".arrow")
"""Suffixes of the files that are read from a folder."""
ABOUT = ("dataset_info.json", "dataset_infos.json", "state.json")
"""Files of a folder that tell of its data."""
CHUNK = 1 << 20
"""Characters of a JSON file that are read at once."""
HEAD = 1 << 16
"""Bytes that `other_form` inspects."""
OTHER_FORMS = {
    **{magic: f"{name}; export its rows as JSON lines" for magic, name in MAGIC.items()},
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"PK\x03\x04": "packed by zip; unpack it",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}
"""Magic bytes of files that are not JSON, with the format and advice."""
MAGIC_BYTES = 16
"""A zero byte among so many first ones is in images, videos and archives, but in no text."""
LIST_OF_OBJECTS = re.compile(rb'"([^"\\]+)"\s*:\s*\[\s*\{')
SPACE = " \t\n\r"


@dataclass(frozen=True)
class Record:
    """A record, or the error in its place.

    Attributes:
        file: the file of the record.
        place: "line 3", or "record 3" of a JSON list, or "row 3" of a table, counted from 1.
        value: the object, or the error.
    """

    file: Path
    place: str
    value: dict[str, Any] | DataError

    @property
    def where(self) -> str:
        """File and place, for messages."""
        return f"{self.file}: {self.place}"

    def named(self, naming: Naming | None) -> "Record":
        """The record with the keys of this package."""
        if naming is None or isinstance(self.value, DataError):
            return self
        return replace(self, value=naming.renamed(self.value))


def shards_of(path: Path) -> list[Path]:
    """Return the file itself, or a folder's data files: sorted by name, or in the order of a Hugging Face dataset.

    Raises:
        DataError: the path does not exist, the folder has no data files, or it holds several splits.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a file ({', '.join(SHARDS)}), or a folder of them")
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(one.name for one in path.iterdir() if one.is_dir())
        raise DataError(f"{path} is a dataset with the splits {', '.join(splits)}; give the folder of one of them")
    found = sorted(
        file for file in path.iterdir() if file.suffix in SHARDS and file.name not in ABOUT and file.is_file()
    )
    state = path / "state.json"
    if state.is_file() and found:
        found = _saved(state, found)
    if not found:
        raise DataError(f"{path} holds no file whose name ends with {' or '.join(SHARDS)}; give another, or a file")
    return found


def _saved(state: Path, found: list[Path]) -> list[Path]:
    """The files of a dataset that `save_to_disk` has written, in order."""
    try:
        names = [one["filename"] for one in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return found  # Another tool's file of this name.
    missing = sorted({*names} - {file.name for file in found})
    if missing:
        raise DataError(f"{state} names {', '.join(missing)}, but the folder does not hold it; copy the whole folder")
    return [state.with_name(name) for name in names]


def records_of(path: str | Path) -> Iterator[Record]:
    """Yield all records of a file or a folder, in order.

    A file that begins with `[` is a list of objects; a table is told by its first bytes; in any other file, every
    non-empty line is an object. A malformed line gives one error; a malformed list gives one error and ends there.

    Raises:
        DataError: the path does not exist, the folder has no data files, or a table cannot be read.
        OSError: a file cannot be read.
    """
    for file in shards_of(Path(path)):
        naming = Naming.of(file)
        if table_format(file):
            yield from (table_record(file, row, naming) for row in range(rows_in(file)))
            continue
        with open(file, "rb") as opened:
            for piece in pieces_of(opened):
                yield record_of(file, piece).named(naming)


def table_record(file: Path, row: int, naming: Naming | None = None, keys: Collection[str] = ()) -> Record:
    """Return the record of a table's row, counted from 0, or its error.

    Args:
        keys: columns that are read, beside those that a form has; of others, values are `...`.
    """
    columns = {} if naming is None else naming.columns
    try:
        value = row_of(file, row, lambda column: columns.get(column, column) in READ_KEYS or column in keys)
    except DataError as error:
        return Record(file, f"row {row + 1}", error)
    return Record(file, f"row {row + 1}", value).named(naming)


@dataclass(frozen=True)
class Item:
    """An item of a JSON list, or the error that ends the list.

    Attributes:
        number: counted from 1.
        start, length: byte range in the file; length 0 for an error.
        value: the parsed value, or the error.
    """

    number: int
    start: int
    length: int
    value: Any


def pieces_of(file: BinaryIO) -> Iterator[Line | Item]:
    """Yield the items of a JSON list, or the unparsed lines of any other file, one in memory at a time."""
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
    """Return the error of a file that is neither JSON Lines nor a JSON list, else None. The file is rewound."""
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    for start, advice in OTHER_FORMS.items():
        if head.startswith(start):
            return DataError(f"the file is {advice}")
    if b"\0" in head[:MAGIC_BYTES]:
        return DataError("the file is no text; expected JSON lines, a JSON list, Parquet or Arrow")
    first, second = (*itertools.islice(lines_of(file), 2), None, None)[:2]
    file.seek(0)
    if first is None or second is None or not first.text.startswith(b"{"):
        return None
    try:
        parse_line(first)
    except DataError:
        # Pretty-printed JSON, rather than JSON Lines whose first line is truncated.
        if first.text[-1:] in b"{[,:" or not second.text.startswith(b"{"):
            found = LIST_OF_OBJECTS.search(head)
            inner = None if found is None else found[1].decode(errors="replace")
            advice = "write it on one line" if inner in (None, *COMMON_KEYS) else f"give the list under {inner!r}"
            return DataError(
                f"the file is one object over several lines; expected an object a line, or a list: {advice}"
            )
    return None


def record_of(file: Path, piece: Line | Item) -> Record:
    """Return the record of a line or item, or its error."""
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
    """Yield the items of a JSON list after its `[`; an error ends a malformed or truncated list.

    Args:
        text: UTF-8 with surrogate escapes and without newline translation, so that bytes can be counted.
        start: byte offset of `text` in the file.
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
    """A text file read in chunks, with a cursor: `at`, a character of the buffer, and `byte`, a byte of the file."""

    def __init__(self, text: TextIO, byte: int) -> None:
        self.text, self.buffer, self.at, self.byte, self.size = text, "", 0, byte, CHUNK

    def more(self) -> bool:
        """Read a chunk; return False at the end of the file."""
        read = self.text.read(self.size)
        self.buffer, self.at = self.buffer[self.at :] + read, 0
        return bool(read)

    def advance(self, to: int) -> None:
        """Move the cursor to a character of the buffer."""
        self.byte += len(self.buffer[self.at : to].encode(errors="surrogateescape"))
        self.at = to

    def finds_item(self, first: bool) -> bool:
        """Move the cursor to the next item; return False at the end of the list.

        Raises:
            DataError: neither a comma nor the end of the list follows.
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
        """Skip whitespace; return the next character, "" at the end of the file."""
        while True:
            end = self.at
            while end < len(self.buffer) and self.buffer[end] in SPACE:
                end += 1
            self.advance(end)
            if self.at < len(self.buffer) or not self.more():
                return self.buffer[self.at : self.at + 1]

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """Decode the value at the cursor. At the end of the buffer it may be incomplete: read more first.

        Raises:
            DataError: malformed or truncated JSON.
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
                    self.size *= 2  # Doubling bounds how often a long item is parsed again.
                    continue
                end = len(self.buffer)  # `more` has dropped what precedes the item
            if problem is not None:
                raise DataError(f"not JSON, or cut off ({problem})") from problem
            self.advance(end)
            return value
