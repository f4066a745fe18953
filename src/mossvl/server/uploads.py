"""Uploaded files, which later requests name by id; limited in total size and in age."""

import re
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from mossvl.disk import room_for_temporary_files
from mossvl.server.errors import RequestError
from mossvl.server.keeping import Kept, Store

VISION = "vision"
PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", VISION)
"""OpenAI's purposes of uploads, which change nothing here."""
SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(kw_only=True)
class Upload(Kept):
    """An uploaded file; `filename` is the client's name for it, `purpose` one of `PURPOSES`."""

    filename: str
    path: Path
    purpose: str = VISION


class Uploads(Store[Upload]):
    """Uploaded files in a temporary folder, which `close` removes."""

    def __init__(self, space: int, seconds: float) -> None:
        super().__init__(space, seconds)
        self._folder = tempfile.TemporaryDirectory(prefix="mossvl-uploads-", ignore_cleanup_errors=True)

    @property
    def folder(self) -> str:
        return self._folder.name

    def begin(self, filename: str, owner: str = "") -> "Incoming":
        """Begin an upload.

        Raises:
            ResourceError: the disk is full.
        """
        return Incoming(self, filename, owner)

    def missing(self, id: str, param: str | None) -> RequestError:
        return RequestError(404, "file_not_found", f"there is no uploaded file {id!r:.80}; upload it again", param)

    def removed(self, one: Upload) -> None:
        one.path.unlink(missing_ok=True)

    def by_their_names(self, text: str) -> str:
        """Replace the paths of files in a text by their clients' names."""
        if self.folder in text:
            for upload in list(self._kept.values()):
                text = text.replace(str(upload.path), upload.filename)
        return text

    def close(self) -> None:
        self._folder.cleanup()


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
        self._uploads.reserve(len(piece))
        self.size += len(piece)
        with room_for_temporary_files():
            self._file.write(piece)

    def keep(self, purpose: str = VISION) -> Upload:
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
        upload = Upload(
            id=self._id,
            owner=self._owner,
            size=self.size,
            filename=self._filename,
            path=self._path,
            purpose=purpose,
        )
        self._uploads.add(upload, reserved=self.size)
        self._kept = True
        return upload

    def close(self) -> None:
        """Remove the file, unless it was kept."""
        if self._kept:
            return
        with suppress(OSError):  # A full disk fails the final flush, too.
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._uploads.reserve(-self.size)
