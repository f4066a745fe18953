"""Random access to the records of files, by an index of byte ranges."""

import json
import os
from array import array
from collections.abc import Collection
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mossvl.data.files import Item, Record, pieces_of, record_of, shards_of, table_record
from mossvl.data.naming import Naming
from mossvl.data.records import Line
from mossvl.data.tables import rows_in, table_format
from mossvl.errors import DataError

Column = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A file, with its state at indexing.

    Attributes:
        kind: "lines", "list" (of JSON) or "table".
        size: bytes.
        modified: modification time in nanoseconds.
        naming: the names in the file, if it has others than this package.
    """

    path: Path
    kind: Literal["lines", "list", "table"]
    size: int
    modified: int
    naming: Naming | None

    def read(self, start: int, length: int) -> bytes:
        """Return bytes [start, start + length). Each call opens the file, so that any process can read.

        Raises:
            DataError: the file has changed since indexing, or cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                state = os.fstat(file.fileno())
                file.seek(start)
                content = file.read(length)
        except OSError as error:
            raise DataError(f"{self.path} was indexed but cannot be read any more ({error}); start again") from error
        if (state.st_size, state.st_mtime_ns) != (self.size, self.modified):
            raise DataError(
                f"{self.path} has changed since it was indexed, when it had {self.size} bytes (now {state.st_size}); "
                "start again"
            )
        return content


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """The index of a file or folder. It can be pickled for other processes.

    Attributes:
        sources: the files.
        files: (records,) int64, each record's place in `sources`.
        starts, lengths: (records,) int64, each record's byte range; in a table its row, from 0, and 0.
        numbers: (records,) int64, the number of its line, or of the item in a list, or of its row, from 1.
        broken: errors by record, where a list is malformed.
    """

    sources: tuple[Source, ...]
    files: Column
    starts: Column
    lengths: Column
    numbers: Column
    broken: dict[int, DataError]

    @classmethod
    def build(cls, path: str | Path) -> Self:
        """Index the records of `records_of` in one pass.

        Raises:
            DataError: the path does not exist, the folder has no data files, or a table cannot be read.
            OSError: a file cannot be read.
        """
        sources: list[Source] = []
        files, starts, lengths, numbers = (array("q") for _ in range(4))
        broken: dict[int, DataError] = {}
        for path_of_file in shards_of(Path(path)):
            kind: Literal["lines", "list", "table"] = "lines"
            naming = Naming.of(path_of_file)
            with open(path_of_file, "rb") as file:
                state = os.fstat(file.fileno())
                if table_format(path_of_file):
                    kind, rows = "table", rows_in(path_of_file)
                    files.extend(repeat(len(sources), rows))
                    starts.extend(range(rows))
                    lengths.extend(repeat(0, rows))
                    numbers.extend(range(1, rows + 1))
                for piece in () if kind == "table" else pieces_of(file):
                    kind = "list" if isinstance(piece, Item) else "lines"
                    if isinstance(piece, Item) and isinstance(piece.value, DataError):
                        broken[len(files)] = piece.value
                    files.append(len(sources))
                    starts.append(piece.start)
                    lengths.append(piece.length)
                    numbers.append(piece.number)
            sources.append(Source(path_of_file, kind, state.st_size, state.st_mtime_ns, naming))
        return cls(tuple(sources), _column(files), _column(starts), _column(lengths), _column(numbers), broken)

    def __len__(self) -> int:
        return len(self.files)

    def file_of(self, index: int) -> Path:
        """Return the file of record `index`, from 0."""
        return self.sources[self.files[index]].path

    def content(self, index: int) -> bytes:
        """Return the bytes of record `index`, from 0; of a table's row, its file's name and size, and its number.

        Raises:
            DataError: see `read`.
        """
        source, start = self.sources[self.files[index]], int(self.starts[index])
        if source.kind == "table":
            return f"{source.path.name} {source.size} {start}".encode()
        return source.read(start, int(self.lengths[index]))

    def read(self, index: int, keys: Collection[str] = ()) -> Record:
        """Return record `index`, from 0, as `records_of` yields it.

        Args:
            keys: see `table_record`.

        Raises:
            DataError: its file has changed since indexing, or cannot be read.
            IndexError: `index` is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no record {index} among {len(self)}, which are counted from 0")
        source, number = self.sources[self.files[index]], int(self.numbers[index])
        start, length = int(self.starts[index]), int(self.lengths[index])
        content = source.read(start, length)
        if source.kind == "table":
            return table_record(source.path, start, source.naming, keys)
        if source.kind == "lines":
            first = int(np.searchsorted(self.files, self.files[index]))
            record = record_of(source.path, Line(index - first, number, content, start))
        else:
            value = self.broken[index] if index in self.broken else _parsed(content)
            record = record_of(source.path, Item(number, start, length, value))
        return record.named(source.naming)


def _column(values: "array[int]") -> Column:
    return np.array(values, dtype=np.int64)


def _parsed(content: bytes) -> Any:
    """Parse an item; return a DataError if the item is not JSON."""
    try:
        return json.loads(content.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        return DataError(f"not JSON ({error}), although the file was valid when it was indexed")
