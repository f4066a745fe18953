"""Checkpoints of a run: whether their files are still as they were written, and the one from which the run goes on."""

import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mossvl.errors import CheckpointError
from mossvl.processes import first_process

FILES = "files.json"
"""The file of a checkpoint that lists the others, with their sizes and hashes."""

logger = logging.getLogger(__name__)


def numbered(folder: Path) -> list[Path]:
    """The checkpoints of a folder by their steps, the earliest first; whole or not."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def note_files(checkpoint: Path) -> None:
    """List the files of a checkpoint in it."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / FILES)
    with ThreadPoolExecutor() as pool:  # hashing takes about a second for a gigabyte
        noted = list(pool.map(_noted, files))
    names = [path.relative_to(checkpoint).as_posix() for path in files]
    (checkpoint / FILES).write_text(json.dumps(dict(zip(names, noted, strict=True)), indent=1))


def _noted(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: its first file that is not as it was written; None if all are."""
    try:
        noted = json.loads((checkpoint / FILES).read_bytes())
        expected = {checkpoint / name: dict(one) for name, one in noted.items()}
        if not expected:
            return f"{FILES} lists nothing"
    except FileNotFoundError:
        return f"{FILES} is missing"
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{FILES} cannot be read"
    for path, one in expected.items():
        name = path.relative_to(checkpoint)
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != one.get("bytes"):
            return f"{name} has {path.stat().st_size} bytes instead of {one.get('bytes')}"
    with ThreadPoolExecutor() as pool:
        for path, found in zip(expected, pool.map(_read, expected), strict=True):
            if found != expected[path]:
                return f"{path.relative_to(checkpoint)} {'has other content' if found else 'cannot be read'}"
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return _noted(path)
    except OSError:
        return None


def resumable(folder: Path) -> Path | None:
    """The checkpoint of the latest step that is whole; None where there are no checkpoints.

    Later ones that are damaged are named on a line of the log.

    Raises:
        CheckpointError: all are damaged.
    """
    damaged: list[str] = []
    for checkpoint in reversed(numbered(folder)):
        wrong = damage(checkpoint)
        if wrong is None:
            if damaged and first_process():
                logger.warning("%s; going on from %s", "; ".join(damaged), checkpoint)
            return checkpoint
        damaged.append(f"{checkpoint} is damaged ({wrong})")
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}: there is none to go on from; begin again, in another folder")
    return None
