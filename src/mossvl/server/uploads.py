"""Files that clients have sent, to be named in later requests: for a time, and within a space."""

import re
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from mossvl.disk import room_for_temporary_files
from mossvl.server.errors import RequestError

SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass
class Upload:
    """A file that was sent.

    Attributes:
        id: its name here, which nobody can guess.
        filename: as its sender calls it.
        size: bytes.
        created, used: seconds since the epoch.
    """

    id: str
    filename: str
    size: int
    path: Path
    created: float
    used: float


class Uploads:
    """A folder that is gone with the server.

    Args:
        space: bytes of all files together; the ones that were not used for the longest time go first.
        seconds: for which a file is kept after it was last used.
    """

    def __init__(self, space: int, seconds: float) -> None:
        self.space, self.seconds = space, seconds
        self._folder = tempfile.TemporaryDirectory(prefix="mossvl-uploads-", ignore_cleanup_errors=True)
        self._files: dict[str, Upload] = {}
        self._coming = 0
        self._lock = threading.Lock()

    @property
    def folder(self) -> str:
        return self._folder.name

    def begin(self, filename: str) -> "Incoming":
        """A file that begins to come.

        Raises:
            ResourceError: the disk is full.
        """
        return Incoming(self, filename)

    def get(self, file_id: str) -> Upload:
        """A file that was kept; from now on, its time begins anew.

        Raises:
            RequestError: there is none of that name, or not any more.
        """
        with self._lock:
            self._forget(time.time())
            upload = self._files.get(file_id)
            if upload is not None:
                upload.used = time.time()
                self._files[file_id] = self._files.pop(file_id)
        if upload is None:
            raise RequestError(404, "file_not_found", f"there is no uploaded file {file_id!r:.80}; upload it again")
        return upload

    def forget_old(self) -> None:
        """Remove files whose time is over."""
        with self._lock:
            self._forget(time.time())

    def remove(self, file_id: str) -> bool:
        """Whether there was such a file."""
        with self._lock:
            upload = self._files.pop(file_id, None)
        if upload is not None:
            upload.path.unlink(missing_ok=True)
        return upload is not None

    def by_their_names(self, text: str) -> str:
        """A text in which kept files are called as their senders call them."""
        if self.folder in text:
            for upload in list(self._files.values()):
                text = text.replace(str(upload.path), upload.filename)
        return text

    def close(self) -> None:
        self._folder.cleanup()

    def make_room(self, size: int) -> None:
        """Claim bytes for a file that is coming; files that were not used for the longest time go for it.

        Args:
            size: of bytes; below zero gives them back.
        """
        with self._lock:
            self._coming += size
            self._forget(time.time())

    def keep(self, upload: Upload) -> None:
        """A file has come, for which room was made."""
        with self._lock:
            self._coming -= upload.size
            self._files[upload.id] = upload

    def _forget(self, now: float) -> None:
        """Remove what is too old, and as much as makes room; the files are in the order of their last use."""
        room = self.space - self._coming - sum(upload.size for upload in self._files.values())
        for upload in list(self._files.values()):
            if now - upload.used > self.seconds or room < 0:
                del self._files[upload.id]
                upload.path.unlink(missing_ok=True)
                room += upload.size


class Incoming:
    """A file while it comes, written where it stays; it is gone when it is closed without having been kept."""

    def __init__(self, uploads: Uploads, filename: str) -> None:
        self.size = 0
        self._uploads, self._filename, self._kept = uploads, filename, False
        self._id = f"file-{secrets.token_hex(16)}"
        # A few raw formats are told by their suffix alone.
        suffix = PurePath(filename).suffix.lower()
        self._path = Path(uploads.folder, self._id + (suffix if SUFFIX.fullmatch(suffix) else ""))
        with room_for_temporary_files():
            self._file = self._path.open("wb")

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            RequestError: the file is larger than all the space there is.
            ResourceError: the disk is full.
        """
        if self.size + len(piece) > self._uploads.space:
            space = self._uploads.space
            raise RequestError(413, "file_too_large", f"the file is larger than the {space} bytes of --upload-space")
        self._uploads.make_room(len(piece))
        self.size += len(piece)
        with room_for_temporary_files():
            self._file.write(piece)

    def keep(self) -> Upload:
        """All of it has come.

        Raises:
            RequestError: it is empty.
            ResourceError: the disk is full.
        """
        if not self.size:
            message = f"{self._filename!r:.80} is empty; expected an image or a video"
            raise RequestError(400, "empty_file", message, "file")
        with room_for_temporary_files():
            self._file.close()
        now = time.time()
        upload = Upload(self._id, self._filename, self.size, self._path, now, now)
        self._uploads.keep(upload)
        self._kept = True
        return upload

    def close(self) -> None:
        """Remove the file, unless it was kept."""
        if self._kept:
            return
        with suppress(OSError):  # What could not be written still cannot.
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._uploads.make_room(-self.size)
