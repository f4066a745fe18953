"""The answer file of `mossvl run`: whole lines only, whatever happens, and none of them twice."""

import json
import os
import stat
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Self

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from mossvl.data.records import Line
from mossvl.errors import DataError, InputError

MOST_LINES = 1 << 28
"""An index beyond this is no index."""


class AnswerFile:
    """A JSON-lines file of answers, in the order in which they were finished.

    Every line is written by one call, so that a crash leaves at most one cut line, at the end; `begin` removes it. What
    is known of earlier answers takes 8 bytes each.

    Args:
        path: the file; nothing is changed in it before `begin`.
        resume: go on where an earlier run ended.
        overwrite: drop what is there.
        retry_errors: with `resume`, drop answers that are errors, so that their queries are asked again.

    Raises:
        InputError: there are answers but neither `resume` nor `overwrite`; or it cannot be written, or another run
            is writing it.
        DataError: with `resume`, it holds something else than answers.
    """

    def __init__(self, path: Path, resume: bool = False, overwrite: bool = False, retry_errors: bool = False) -> None:
        self.path = path
        self.answered = self.failed = 0
        self.first_error: str | None = None
        self._digests = array("Q")
        self._retry_errors = retry_errors
        self._size = 0
        self._file = self._open()
        try:
            self._regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
            if self._regular and os.fstat(self._file.fileno()).st_size and not overwrite:
                if not resume:
                    raise InputError(f"{path} is not empty; --resume goes on with it, --overwrite begins anew")
                self._read()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> FileIO:
        try:
            readable = not self.path.exists() or self.path.is_file()  # A terminal or a pipe can only be written.
            file = FileIO(self.path, "a+" if readable else "a")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            if fcntl is not None and self.path.is_file():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InputError(f"{self.path}: another run is writing it") from error
        return file

    def _read(self) -> None:
        """Learn which queries are answered, and where the last whole line ends."""
        for number, line in enumerate(self._lines(), 1):
            index, digest, failed = _parse_answer(line, self.path, number)
            self._size += len(line)
            self.failed += failed
            if not (failed and self._retry_errors):
                self._remember(index, digest)

    def _lines(self) -> Iterator[bytes]:
        """Whole lines."""
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def _remember(self, index: int, digest: int) -> None:
        missing = index + 1 - len(self._digests)
        if missing > 0:
            self._digests.frombytes(bytes(8 * missing))
        self.answered += not self._digests[index]
        self._digests[index] = digest

    def has(self, line: Line) -> bool:
        """Whether a query is answered.

        Raises:
            DataError: there is an answer, but to another query.
        """
        known = self._digests[line.index] if line.index < len(self._digests) else 0
        if known and known != _number(line.digest):
            raise DataError(
                f"{self.path}: its answer {line.index} is to another query than line {line.number} of the input; "
                "resume with the file it was begun with, or use another --output"
            )
        return bool(known)

    def check_end(self, lines: int) -> None:
        """Called with the number of queries there are.

        Raises:
            DataError: there are answers to more.
        """
        if len(self._digests) > lines:
            raise DataError(
                f"{self.path}: it has an answer {len(self._digests) - 1}, but there are only {lines} queries; "
                "resume with the file it was begun with, or use another --output"
            )

    def begin(self) -> None:
        """Make the file ready: no cut line, and no answers that are to be given anew."""
        if not self._regular:
            return
        self._file.truncate(self._size)
        if self._retry_errors and self.failed:
            self._drop_errors()
            self.failed = 0

    def _drop_errors(self) -> None:
        """Replace the file by one without its errors."""
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as kept:
                for number, line in enumerate(self._lines(), 1):
                    if not _parse_answer(line, self.path, number)[2]:
                        kept.write(line)
                self._size = kept.tell()
            os.chmod(name, stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise
        self._file.close()
        self._file = self._open()

    def write(self, answer: dict[str, Any]) -> None:
        """Append an answer."""
        # Half a surrogate pair, which JSON can hold but UTF-8 cannot, is written as JSON's own escape.
        data = json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{self.path}: only a part of a line could be written; the disk may be full")
        except BaseException:
            if self._regular:
                with suppress(OSError):
                    self._file.truncate(self._size)
            raise
        self._size += len(data)
        self.answered += 1
        self.failed += "error" in answer
        if self.first_error is None:
            self.first_error = answer.get("error")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _number(digest: str) -> int:
    return int(digest, 16) or 1


def _parse_answer(line: bytes, path: Path, number: int) -> tuple[int, int, bool]:
    """(index, digest of the query, whether it is an error) of an answer."""
    try:
        answer = json.loads(line)
        index, digest, failed = answer["index"], _number(answer["query"]), "error" in answer
        if type(index) is not int or not 0 <= index < MOST_LINES or digest >= 1 << 64:
            raise ValueError("no index")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path}: line {number} is not an answer of `mossvl run`; use another --output, or --overwrite"
        ) from error
    return index, digest, failed
