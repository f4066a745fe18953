"""Rows of Parquet and Arrow files, read by number: one row group of a Parquet file in memory, Arrow files by mmap."""

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

from mossvl.errors import DataError

MAGIC = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\xff\xff\xff\xff": "Arrow"}
"""First bytes of tables; the last are those of Arrow's stream format, which Hugging Face datasets write."""
STREAM = b"\xff\xff\xff\xff"
LARGEST_GROUP = 1 << 29
"""Most bytes of a Parquet row group, unpacked: it is read as a whole."""


def table_format(path: Path) -> str | None:
    """The format of a file that is a table, else None.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(8)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def rows_in(path: Path) -> int:
    """Number of rows of a table.

    Raises:
        DataError: the table is damaged, a row group is too large, or pyarrow is not installed.
    """
    with _usable(path):
        modified = path.stat().st_mtime_ns
        if table_format(path) == "Arrow":
            return int(_arrow(path, modified).num_rows)
        metadata = _parquet(path, modified).metadata
        groups = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
        if max(groups, default=0) > LARGEST_GROUP:
            raise DataError(
                f"{path}: a row group has {max(groups):,} bytes, and is read as a whole; at most {LARGEST_GROUP:,} are "
                "supported. Write the file with smaller groups (row_group_size=100), or as an Arrow file"
            )
        return int(metadata.num_rows)


def row_of(path: Path, row: int, is_read: Callable[[str], bool]) -> dict[str, Any]:
    """Row `row` of a table, counted from 0.

    Args:
        is_read: whether a column's values are read; others are not converted, but `...` unless they are null.

    Raises:
        DataError: the table is damaged, a value of the row has no counterpart in Python, or pyarrow is not installed.
    """
    with _usable(path):
        modified = path.stat().st_mtime_ns
        if table_format(path) == "Arrow":
            table, start = _arrow(path, modified), 0
        else:
            ends = _group_ends(path, modified)
            group = bisect_right(ends, row)
            table, start = _group(path, modified, group), ends[group - 1] if group else 0
        columns = zip(table.column_names, table.columns, strict=True)
        values = ((name, column[row - start]) for name, column in columns)
        return {name: _value(path, row, name, one) if is_read(name) else _unread(one) for name, one in values}


def _unread(given: Any) -> Any:
    return ... if given.is_valid else None


def _value(path: Path, row: int, column: str, given: Any) -> Any:
    """A value as Python's. Some have no counterpart there: times in nanoseconds (which pandas has), far dates."""
    try:
        return given.as_py()
    except (ValueError, OverflowError, LookupError) as error:
        why = " ".join(str(error).split())
        raise DataError(
            f"{path}: row {row + 1}: the column {column!r} ({given.type}) cannot be read as a value of Python "
            f"({why:.200}); leave the column out, or write it as another type"
        ) from error


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Tell what fails by the file's name."""
    arrow = _pyarrow(path)
    try:
        yield
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as {table_format(path)} ({why:.200}); is it complete?") from error


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path} is a table, which needs pyarrow: pip install '.[tables]' in a clone of mossvl, or write the rows "
            "as JSON lines"
        ) from error
    return pyarrow


# Opened files and the last row group, in each process. The time of change is a key, so that no stale table is read.


@functools.lru_cache(maxsize=16)
def _arrow(path: Path, modified: int) -> Any:
    import pyarrow

    with open(path, "rb") as file:
        stream = file.read(len(STREAM)) == STREAM
    mapped = pyarrow.memory_map(str(path))
    return (pyarrow.ipc.open_stream(mapped) if stream else pyarrow.ipc.open_file(mapped)).read_all()


@functools.lru_cache(maxsize=16)
def _parquet(path: Path, modified: int) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True)


@functools.lru_cache(maxsize=16)
def _group_ends(path: Path, modified: int) -> list[int]:
    metadata = _parquet(path, modified).metadata
    return list(accumulate(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)))


@functools.lru_cache(maxsize=1)
def _group(path: Path, modified: int, group: int) -> Any:
    # In one thread: DataLoader workers are processes already, and pyarrow's threads do not survive a fork.
    return _parquet(path, modified).read_row_group(group, use_threads=False)
