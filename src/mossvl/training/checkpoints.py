"""Checkpoints of a run: the integrity of their files, and the one to resume from."""

import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mossvl.errors import CheckpointError
from mossvl.ranks import first_process

FILES = "files.json"
"""The manifest of a checkpoint: size and SHA-256 of each other file."""

logger = logging.getLogger(__name__)


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, damaged ones included, by step in ascending order."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def note_files(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / FILES)
    with ThreadPoolExecutor() as pool:  # Hashing takes about a second per gigabyte.
        entries = list(pool.map(_entry, files))
    names = [path.relative_to(checkpoint).as_posix() for path in files]
    (checkpoint / FILES).write_text(json.dumps(dict(zip(names, entries, strict=True)), indent=1))


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def damage(checkpoint: Path) -> str | None:
    """The first difference between a checkpoint's files and its manifest, in words; None if there is none."""
    try:
        manifest = json.loads((checkpoint / FILES).read_bytes())
        expected = {checkpoint / name: dict(one) for name, one in manifest.items()}
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
        for path, found in zip(expected, pool.map(_entry_if_readable, expected), strict=True):
            if found != expected[path]:
                return f"{path.relative_to(checkpoint)} {'has other content' if found else 'cannot be read'}"
    return None


def _entry_if_readable(path: Path) -> dict[str, Any] | None:
    try:
        return _entry(path)
    except OSError:
        return None


def resumable(folder: Path) -> Path | None:
    """The latest undamaged checkpoint in a folder; None if there are no checkpoints.

    A line of the log names the damaged checkpoints that are skipped.

    Raises:
        CheckpointError: all checkpoints are damaged.
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
