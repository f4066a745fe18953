"""What `mossvl run` answers: lines of a file, records of tables and folders, or the videos of a folder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mossvl.data.records import Line, digest_of, lines_of, parse_line
from mossvl.errors import DataError
from mossvl.names import nearest

if TYPE_CHECKING:
    from mossvl.data.index import RecordIndex

VIDEOS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
"""Suffixes of the files of a folder that are videos."""


@dataclass(frozen=True)
class Question:
    """A question before it is read.

    Attributes:
        index: counted from 0.
        place: where it stands, for messages: "line 3".
        folder: against which its relative paths of media are resolved.
        content: returns the bytes that tell it from others.
        read: returns its record, or raises a DataError.
    """

    index: int
    place: str
    folder: Path
    content: Callable[[], bytes]
    read: Callable[[], dict[str, Any]]

    @property
    def digest(self) -> str:
        return digest_of(self.content())


class Questions(ABC):
    """Questions by their places; they can be pickled for other processes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Question:
        """Return the question at a place from 0 to the length."""

    def __iter__(self) -> Iterator[Question]:
        return (self[index] for index in range(len(self)))


def questions_of(path: Path, keys: Collection[str], prompt: str | None = None) -> Questions:
    """Return the questions of a file of records, of a folder of such files, or of a folder of videos.

    Args:
        keys: of a query, which the columns of a table may have.
        prompt: what is asked about each video of a folder; without it, a folder is one of records.

    Raises:
        DataError: there are none, or a prompt does not belong to them.
    """
    if prompt is None:
        from mossvl.data.index import RecordIndex  # NumPy's import would be a part of every command's start.

        return Records(RecordIndex.build(path), path if path.is_dir() else path.parent, frozenset(keys))
    if not path.is_dir():
        raise DataError(f"{path} is no folder of videos; a --prompt is asked about each video of one")
    return Videos.of(path, prompt)


@dataclass(frozen=True)
class Records(Questions):
    """Records of files, read when they are needed; of a table, columns that are no keys of a query are left out."""

    index: "RecordIndex"
    folder: Path
    keys: frozenset[str]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Question:
        content = partial(self.index.content, index)
        return Question(index, f"record {index + 1}", self.folder, content, partial(self._read, index))

    def _read(self, index: int) -> dict[str, Any]:
        record = self.index.read(index, self.keys)
        if isinstance(record.value, DataError):
            raise record.value
        # What is almost a key is a mistake, which the query tells.
        return {name: value for name, value in record.value.items() if value is not ... or nearest(name, self.keys)}


@dataclass(frozen=True)
class Videos(Questions):
    """One question about each video of a folder and its folders; the id is the path within."""

    folder: Path
    names: tuple[str, ...]
    prompt: str

    @classmethod
    def of(cls, folder: Path, prompt: str) -> "Videos":
        """Find the videos, by their suffixes, in the order of their paths.

        Raises:
            DataError: there is none.
        """
        names = sorted(
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix.lower() in VIDEOS
        )
        if not names:
            raise DataError(f"{folder} holds no video: no file whose name ends with {' or '.join(VIDEOS)}")
        return cls(folder.absolute(), tuple(names), prompt)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Question:
        name = self.names[index]
        record = {"id": name, "prompt": self.prompt, "videos": [name]}
        asked = f"{name}\0{self.prompt}".encode("utf-8", "surrogateescape")
        return Question(index, name, self.folder, lambda: asked, lambda: record)


class Lines:
    """Questions in the lines of a file that are not empty, one in memory at a time.

    Attributes:
        again: whether the lines can be read again, from where the file was; those of a pipe cannot.
    """

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        self.again = file.seekable()
        self._file, self._folder = file, folder
        self._start = file.tell() if self.again else 0

    def __iter__(self) -> Iterator[Question]:
        if self.again:
            self._file.seek(self._start)
        for line in lines_of(self._file):
            yield self._question(line)

    def _question(self, line: Line) -> Question:
        return Question(line.index, line.place, self._folder, lambda: line.text, partial(parse_line, line))
