"""Folders that appear only when they are complete, and errors of a full disk."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mossvl.errors import CheckpointError, ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, quota exceeded, or file size limit exceeded (`ulimit -f`)."""


@contextmanager
def room_for_temporary_files() -> Iterator[None]:
    """Turn the OSError of a full disk, while a temporary file is written, into a ResourceError.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ResourceError(
            f"there is no room for temporary files ({error.strerror}); free space in their folder, or set "
            "TMPDIR to another folder"
        ) from error


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A context in which a folder is written beside its place `output`, where it appears when the context ends.

    Raises:
        CheckpointError: `output` exists.
    """
    if output.exists():
        raise CheckpointError(f"{output} exists already; give a new folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix="writing-", ignore_cleanup_errors=True) as staging:
        written = Path(staging, output.name)
        written.mkdir()
        yield written
        finish(written, output)


def finish(written: Path, place: Path) -> None:
    """Flush the files of the folder `written` to the disk (fsync), then rename it to `place`, which it replaces."""
    for file in [*written.rglob("*"), written]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    shutil.rmtree(place, ignore_errors=True)
    written.rename(place)
