"""The answers of `mossvl run`: one for each query, whole ones also after a crash; `AnswerFile` keeps them as lines."""

import json
import os
import stat
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, Self

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from mossvl.errors import DataError, InputError

MOST_LINES = 1 << 28
"""Upper bound of an index; a line with a larger one is not an answer."""


class Asked(Protocol):
    """What was asked, as a `Question` or a `Line` tells it."""

    @property
    def index(self) -> int: ...

    @property
    def place(self) -> str: ...

    @property
    def digest(self) -> str: ...


class Answers:
    """Which queries are answered, by an earlier run or this one. An earlier answer takes 8 bytes of memory.

    Attributes:
        path: where the answers are written.
        answered, failed: numbers of answers, and of those that are errors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answered = self.failed = 0
        self.first_error: str | None = None
        self._digests = array("Q")

    def _remember(self, index: int, digest: int) -> None:
        missing = index + 1 - len(self._digests)
        if missing > 0:
            self._digests.frombytes(bytes(8 * missing))
        self.answered += not self._digests[index]
        self._digests[index] = digest

    def has(self, question: Asked) -> bool:
        """Whether a question is answered.

        Raises:
            DataError: the answer at the question's index is to another one.
        """
        known = self._digests[question.index] if question.index < len(self._digests) else 0
        if known and known != _as_int(question.digest):
            raise DataError(
                f"{self.path}: answer {question.index} is to another query than {question.place} of the input; resume "
                "with the input file of the first run, or use another --output"
            )
        return bool(known)

    def check_end(self, count: int) -> None:
        """Check that no answer lies beyond the input, which has so many questions.

        Raises:
            DataError: an answer does.
        """
        if len(self._digests) > count:
            raise DataError(
                f"{self.path}: the file has an answer {len(self._digests) - 1}, but there are only {count} queries; "
                "resume with the input file of the first run, or use another --output"
            )

    def begin(self) -> None:
        """Remove what an earlier run has left and this one does not keep."""

    def write(self, answer: dict[str, Any]) -> None:
        """Add an answer."""
        self.answered += 1
        self.failed += error_of(answer) is not None
        if self.first_error is None:
            self.first_error = error_of(answer)

    def close(self) -> None:
        """Write what is not written yet, and close the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def error_of(answer: dict[str, Any]) -> str | None:
    """The error of an answer in either of the forms that answers have; None if it has none."""
    return str(answer["error"]) if "error" in answer else answer.get("__inference_error__") or None


class AnswerFile(Answers):
    """A JSON-lines file of answers, in the order in which queries end.

    Each line is one write call, so that a crash truncates at most the last line, which `begin` removes.

    Args:
        path: the file; its content is unchanged before `begin`.
        resume: keep the answers of an earlier run.
        overwrite: drop the answers of an earlier run.
        retry_errors: with `resume`, drop answers that are errors, so that their queries are asked again.

    Raises:
        InputError: the file is not empty and neither `resume` nor `overwrite` is set, the file cannot be written, or
            another run is writing it.
        DataError: with `resume`, a line is not an answer.
    """

    def __init__(self, path: Path, resume: bool = False, overwrite: bool = False, retry_errors: bool = False) -> None:
        super().__init__(path)
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
        """Find the answered queries, and the end of the last whole line."""
        for number, line in enumerate(self._lines(), 1):
            index, digest, failed = _parse_answer(line, self.path, number)
            self._size += len(line)
            self.failed += failed
            if not (failed and self._retry_errors):
                self._remember(index, digest)

    def _lines(self) -> Iterator[bytes]:
        """Yield the whole lines, without a truncated last one."""
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def begin(self) -> None:
        """Remove a truncated last line and, with `retry_errors`, answers that are errors."""
        if not self._regular:
            return
        self._file.truncate(self._size)
        if self._retry_errors and self.failed:
            self._drop_errors()
            self.failed = 0

    def _drop_errors(self) -> None:
        """Replace the file atomically by one without errors."""
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
        """Append an answer; a write that fails is undone."""
        # UTF-8 cannot encode lone surrogates: they become JSON escapes.
        data = json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{self.path}: only part of a line was written; the disk may be full")
        except BaseException:
            if self._regular:
                with suppress(OSError):
                    self._file.truncate(self._size)
            raise
        self._size += len(data)
        super().write(answer)

    def close(self) -> None:
        self._file.close()


def _as_int(digest: str) -> int:
    """Convert a hexadecimal digest to an integer that is not 0, which stands for no answer."""
    return int(digest, 16) or 1


def _parse_answer(line: bytes, path: Path, number: int) -> tuple[int, int, bool]:
    """Return an answer's index, the digest of its query, and whether the answer is an error."""
    try:
        answer = json.loads(line)
        index, digest, failed = answer["index"], _as_int(answer["query"]), error_of(answer) is not None
        if type(index) is not int or not 0 <= index < MOST_LINES or digest >= 1 << 64:
            raise ValueError("no index")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path}: line {number} is not an answer of `mossvl run`; use another --output, or --overwrite"
        ) from error
    return index, digest, failed
