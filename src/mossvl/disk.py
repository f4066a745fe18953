"""What happens when a disk is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mossvl.errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, no quota, or more than a file may have (`ulimit -f`)."""


@contextmanager
def room_for_temporary_files() -> Iterator[None]:
    """Around writing one: that it finds no room is an error of the machine, whatever the file is.

    Raises:
        ResourceError: it finds none.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ResourceError(
            f"there is no room for temporary files ({error.strerror}); free some in their folder, or name another "
            "folder by TMPDIR"
        ) from error
