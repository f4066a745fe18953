"""Files that clients have sent, to be named in later requests: for a time, and within a space."""

import re
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from mossvl.server.errors import RequestError

CHUNK = 1 << 20
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
        self._lock = threading.Lock()

    @property
    def folder(self) -> str:
        return self._folder.name

    def add(self, source: BinaryIO, filename: str, size: int) -> Upload:
        """Keep a file.

        Raises:
            RequestError: it is empty, or larger than all the space there is.
        """
        if not size:
            raise RequestError(400, "empty_file", f"{filename!r:.80} is empty; expected an image or a video", "file")
        if size > self.space:
            raise RequestError(413, "file_too_large", f"{size} bytes are more than the {self.space} of --upload-space")
        file_id = f"file-{secrets.token_hex(16)}"
        # A few raw formats are told by their suffix alone.
        suffix = PurePath(filename).suffix.lower()
        path = Path(self.folder, file_id + (suffix if SUFFIX.fullmatch(suffix) else ""))
        with self._lock:
            self._forget(time.time(), size)
        try:
            with path.open("wb") as file:
                while chunk := source.read(CHUNK):
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        now = time.time()
        upload = Upload(file_id, filename, size, path, now, now)
        with self._lock:
            self._files[file_id] = upload
        return upload

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

    def _forget(self, now: float, needed: int = 0) -> None:
        """Remove what is too old, and as much as makes room; the files are in the order of their last use."""
        room = self.space - sum(upload.size for upload in self._files.values())
        for upload in list(self._files.values()):
            if now - upload.used > self.seconds or room < needed:
                del self._files[upload.id]
                upload.path.unlink(missing_ok=True)
                room += upload.size
