"""Folders that appear only when they are complete, those that end with their process, and errors of a full disk."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import finalize

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

from mossvl.errors import CheckpointError, ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, quota exceeded, or file size limit exceeded (`ulimit -f`)."""
FREE_SPACE = "free space in their folder, or set TMPDIR to another folder"


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
        raise ResourceError(f"there is no room for temporary files ({error.strerror}); {FREE_SPACE}") from error


class OwnFolder:
    """A temporary folder of this process, held by a lock until it is closed or the process has ended, however it ends.

    Making one removes those with the same prefix whose process was killed.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, prefix: str) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if (lock := _locked(left)) is not None:
                _remove(left, lock)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
            lock = _locked(self.path, wait=True)
            if self.path.exists():  # Another process that begins now may have taken it to be left over.
                break
        self.close = finalize(self, _remove, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(folder: Path, wait: bool = False) -> int | None:
    """Lock a folder of this user, which no living process may hold; return the descriptor that holds it now."""
    if fcntl is None:
        return None
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(lock).st_uid == os.getuid() and os.path.samestat(os.fstat(lock), os.stat(folder)):
                return lock
        os.close(lock)
    return None


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def check_new(output: Path) -> None:
    """Refuse a place where something is.

    Raises:
        CheckpointError: `output` exists.
    """
    if output.exists():
        raise CheckpointError(f"{output} exists already; give a new folder")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A context in which a folder is written beside its place `output`, where it appears when the context ends.

    Raises:
        CheckpointError: `output` exists.
    """
    check_new(output)
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
