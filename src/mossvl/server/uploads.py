"""Uploaded files, which later requests name by id; limited in total size and in age."""

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
    """An uploaded file.

    Attributes:
        id: random id, which cannot be guessed.
        filename: the client's name for the file.
        size: bytes.
        owner: stands for the API key of the client; "" on a server without keys.
        created, used: Unix times of the upload and of its last use, in seconds.
    """

    id: str
    filename: str
    size: int
    path: Path
    owner: str
    created: float
    used: float


class Uploads:
    """Uploaded files in a temporary folder, which `close` removes.

    Args:
        space: bytes of all files together; the least recently used are removed first.
        seconds: how long a file is kept after its last use.
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

    def begin(self, filename: str, owner: str = "") -> "Incoming":
        """Begin an upload.

        Raises:
            ResourceError: the disk is full.
        """
        return Incoming(self, filename, owner)

    def of(self, owner: str) -> list[Upload]:
        """Return a client's files, newest first."""
        self.forget_old()
        own = [upload for upload in list(self._files.values()) if upload.owner == owner]
        return sorted(own, key=lambda upload: upload.created, reverse=True)

    def get(self, file_id: str) -> Upload:
        """Return a file and renew its time of last use.

        Raises:
            RequestError: no file has this id, or the file was removed.
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
        """Remove expired files."""
        with self._lock:
            self._forget(time.time())

    def remove(self, file_id: str) -> bool:
        """Remove a file; return whether it existed."""
        with self._lock:
            upload = self._files.pop(file_id, None)
        if upload is not None:
            upload.path.unlink(missing_ok=True)
        return upload is not None

    def by_their_names(self, text: str) -> str:
        """Replace the paths of files in a text by their clients' names."""
        if self.folder in text:
            for upload in list(self._files.values()):
                text = text.replace(str(upload.path), upload.filename)
        return text

    def close(self) -> None:
        self._folder.cleanup()

    def make_room(self, size: int) -> None:
        """Reserve space for an upload; the least recently used files are removed for it.

        Args:
            size: bytes; a negative number releases a reservation.
        """
        with self._lock:
            self._coming += size
            self._forget(time.time())

    def keep(self, upload: Upload) -> None:
        """Add a complete file, and end its reservation."""
        with self._lock:
            self._coming -= upload.size
            self._files[upload.id] = upload

    def _forget(self, now: float) -> None:
        """Remove expired files, then the least recently used until reservations fit."""
        room = self.space - self._coming - sum(upload.size for upload in self._files.values())
        for upload in list(self._files.values()):
            if now - upload.used > self.seconds or room < 0:
                del self._files[upload.id]
                upload.path.unlink(missing_ok=True)
                room += upload.size


class Incoming:
    """An upload in progress, written to its final path; `close` removes the file unless `keep` was called."""

    def __init__(self, uploads: Uploads, filename: str, owner: str) -> None:
        self.size = 0
        self._uploads, self._filename, self._owner, self._kept = uploads, filename, owner, False
        self._id = f"file-{secrets.token_hex(16)}"
        # A few raw formats can be recognised by their suffix only.
        suffix = PurePath(filename).suffix.lower()
        self._path = Path(uploads.folder, self._id + (suffix if SUFFIX.fullmatch(suffix) else ""))
        with room_for_temporary_files():
            self._file = self._path.open("wb")

    def write(self, piece: bytes) -> None:
        """Append a chunk.

        Raises:
            RequestError: the file is larger than all upload space.
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
        """Finish the upload and return its file.

        Raises:
            RequestError: the file is empty.
            ResourceError: the disk is full.
        """
        if not self.size:
            message = f"{self._filename!r:.80} is empty; expected an image or a video"
            raise RequestError(400, "empty_file", message, "file")
        with room_for_temporary_files():
            self._file.close()
        now = time.time()
        upload = Upload(self._id, self._filename, self.size, self._path, self._owner, now, now)
        self._uploads.keep(upload)
        self._kept = True
        return upload

    def close(self) -> None:
        """Remove the file, unless it was kept."""
        if self._kept:
            return
        with suppress(OSError):  # A full disk fails the final flush, too.
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._uploads.make_room(-self.size)
