"""Answers of `mossvl run` as Parquet: a folder of files, each of which is there as a whole or not at all."""

import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from mossvl.cli.answers import MOST_LINES, Answers, error_of
from mossvl.errors import DataError, InputError, OptionError

if TYPE_CHECKING:
    import pyarrow

BLOCK = 512
"""Most answers of a file."""
SECONDS = 30.0
"""Longest time for which a complete answer waits to be written."""
PART, UNFINISHED = "part-*.parquet", ".part-*"
COUNTS = ("index", "prompt_tokens", "new_tokens", "num_input_tokens", "num_generated_tokens")


class AnswerTables(Answers):
    """A folder of Parquet files of answers.

    Answers are written by blocks: when a block is full, some time after its first answer, and at the end. A crash loses
    what was not written yet, which `--resume` answers again.

    Args:
        path: the folder, which is made; what is in it is unchanged before `begin`.
        resume, overwrite, retry_errors: see `AnswerFile`.

    Raises:
        InputError: the folder has answers and neither `resume` nor `overwrite` is set, it cannot be written, or another
            run is writing it.
        DataError: with `resume`, a file holds no answers.
        OptionError: pyarrow is not installed.
    """

    def __init__(self, path: Path, resume: bool = False, overwrite: bool = False, retry_errors: bool = False) -> None:
        super().__init__(path)
        self._block: list[dict[str, Any]] = []
        self._since = 0.0
        self._old: list[Path] = []
        """Files to remove at `begin`."""
        self._without_errors: list[tuple[Path, Any]] = []
        """Files to replace at `begin`, with their tables."""
        _parquet()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "w")  # noqa: SIM115 (held until `close`)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            self._claim()
            parts = sorted(path.glob(PART))
            if parts and not (resume or overwrite):
                raise InputError(f"{path} has answers; --resume goes on with them, --overwrite begins anew")
            self._old = [*path.glob(UNFINISHED), *(parts if overwrite else [])]
            for part in () if overwrite else parts:
                self._read(part, retry_errors)
        except BaseException:
            self._lock.close()
            raise

    def _claim(self) -> None:
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{self.path}: another run is writing it") from error

    def _read(self, part: Path, retry_errors: bool) -> None:
        """Find the queries that a file answers.

        Raises:
            DataError: it holds no answers.
        """
        kept = []
        try:
            table = _parquet().read_table(part)
            names = [name for name in ("index", "query", "error", "__inference_error__") if name in table.column_names]
            answers = table.select(names).to_pylist()
            for answer in answers:
                error = error_of({name: value for name, value in answer.items() if value is not None})
                index, digest = answer["index"], int(answer["query"], 16) or 1
                if not 0 <= index < MOST_LINES:
                    raise ValueError("no index")
                kept.append(not (error is not None and retry_errors))
                if kept[-1]:
                    self.failed += error is not None
                    self._remember(index, digest)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{part} holds no answers of `mossvl run`; use another --output, or --overwrite") from error
        if not all(kept):
            self._without_errors.append((part, table.filter(kept)))

    def begin(self) -> None:
        for part, table in self._without_errors:
            self._replace(part, table)
        for file in self._old:
            file.unlink(missing_ok=True)

    def write(self, answer: dict[str, Any]) -> None:
        """Add an answer to the block; write the block if it is full or has waited long."""
        now = time.monotonic()
        self._since = self._since if self._block else now
        self._block.append(answer)
        super().write(answer)
        if len(self._block) >= BLOCK or now - self._since >= SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._block:
            name = f"part-{time.time_ns():x}-{secrets.token_hex(4)}.parquet"  # In the order of time.
            self._replace(self.path / name, table_of(self._block))
            self._block = []

    def _replace(self, part: Path, table: "pyarrow.Table") -> None:
        """Write a file, atomically."""
        unfinished = part.with_name(f".{part.name}")
        _parquet().write_table(table, unfinished)
        os.replace(unfinished, part)

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._lock.close()
            (self.path / ".lock").unlink(missing_ok=True)


def table_of(answers: list[dict[str, Any]]) -> "pyarrow.Table":
    """Return answers as a table whose columns have the same types in every file; an id that is no text is JSON."""
    import pyarrow

    types = {name: pyarrow.int64() for name in COUNTS}
    types |= {"time_taken_llm": pyarrow.float64(), "generated_tokens": pyarrow.list_(pyarrow.int64())}
    names = dict.fromkeys(name for answer in answers for name in answer)
    columns = {name: [_told(name, answer.get(name)) for answer in answers] for name in names}
    return pyarrow.table(
        {name: pyarrow.array(values, types.get(name, pyarrow.string())) for name, values in columns.items()}
    )


def _told(name: str, value: Any) -> Any:
    if name == "id" and value is not None and not isinstance(value, str):
        return json.dumps(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OptionError(
            "answers as Parquet need pyarrow: pip install '.[tables]' in a clone of mossvl, or name an output that "
            "ends with .jsonl"
        ) from error
    return pyarrow.parquet
