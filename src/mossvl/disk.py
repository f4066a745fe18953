"""Errors of a full disk."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mossvl.errors import ResourceError

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
