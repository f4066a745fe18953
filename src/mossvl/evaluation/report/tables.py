"""Tables of benchmarks' files: CSV, TSV, JSON and XLSX, as rows."""

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mossvl.errors import DataError, MossVLError

Row = dict[str, Any]
READABLE = frozenset({".csv", ".json", ".tsv", ".xlsx"})
SHEET, STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"


def raised(error: DataError) -> None:
    raise error


@contextmanager
def told(broken: Callable[[DataError], object]) -> Iterator[None]:
    """Give the error of a file that cannot be read to `broken`."""
    try:
        yield
    except DataError as error:
        broken(error)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); was it written to its end?") from error


def read_rows(path: Path) -> list[Row]:
    """The rows of a table, by the names in its first row; of JSON, a list of objects or an object of columns.

    Raises:
        DataError: it is no such table.
    """
    try:
        if path.suffix == ".xlsx":
            rows = list(_rows_of_xlsx(path))
            return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]] if rows else []
        if path.suffix == ".json":
            return _rows_of_json(read_json(path))
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    except MossVLError:
        raise
    except (OSError, KeyError, IndexError, ValueError, csv.Error, zipfile.BadZipFile, ElementTree.ParseError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: cannot be read as a table ({reason}); was it written to its end?") from error


def _rows_of_json(content: Any) -> list[Row]:
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return content
    if isinstance(content, dict) and content and all(isinstance(column, dict) for column in content.values()):
        first = next(iter(content.values()))
        return [{name: column.get(key) for name, column in content.items()} for key in first]
    raise ValueError("neither rows nor columns")


def _rows_of_xlsx(path: Path) -> Iterator[list[Any]]:
    """Cells of the first sheet, row by row, as texts and numbers."""
    with zipfile.ZipFile(path) as book:
        texts: list[str] = []
        if STRINGS in book.namelist():
            texts = [_text(one) for one in ElementTree.fromstring(book.read(STRINGS))]
        for row in ElementTree.fromstring(book.read(SHEET)).iterfind("{*}sheetData/{*}row"):
            cells: dict[int, Any] = {}
            for number, cell in enumerate(row.iterfind("{*}c")):
                place = _column(cell.get("r", ""))
                cells[number if place is None else place] = _value(cell, texts)
            yield [cells.get(number) for number in range(max(cells, default=-1) + 1)]


def _column(reference: str) -> int | None:
    """AB12 → 27."""
    letters = re.match(r"[A-Z]+", reference)
    if letters is None:
        return None
    number = 0
    for letter in letters[0]:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, texts: list[str]) -> Any:
    kind, value = cell.get("t", "n"), cell.findtext("{*}v")
    if kind == "inlineStr":
        return _text(cell)
    if value is None:
        return None
    if kind == "s":
        return texts[int(value)]
    return float(value) if kind in ("n", "b") else value


def _text(element: ElementTree.Element) -> str:
    """The text of a string, whose runs may have formats of their own."""
    return "".join(part.text or "" for part in element.iterfind(".//{*}t"))
