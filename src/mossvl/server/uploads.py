"""Uploaded files, which later requests name by id; limited in total size and in age."""

import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mossvl.disk import OwnFolder, room_for_temporary_files
from mossvl.errors import ResourceError
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
    """Uploaded files in a folder. What has no file any more is gone: a full disk may keep its row in the index.

    Args:
        folder: shared with other processes; None for a temporary one, which `close` removes.
    """

    name = "uploads"

    def __init__(self, space: int, seconds: float, folder: Path | None = None) -> None:
        self._own = OwnFolder("mossvl-uploads-") if folder is None else None
        if self._own is not None:
            place = self._own.path
        elif folder is not None:
            place = folder / self.name
            place.mkdir(mode=0o700, exist_ok=True)
        self.folder = str(place)
        super().__init__(space, seconds, folder=folder)

    def begin(self, filename: str, owner: str = "") -> "Incoming":
        """Begin an upload.

        Raises:
            ResourceError: the disk is full.
        """
        return Incoming(self, filename, owner)

    def get(self, owner: str, id: str, param: str | None = None) -> Upload:
        one = super().get(owner, id, param)
        if not one.path.exists():
            raise self.missing(id, param)
        return one

    def of(self, owner: str) -> list[Upload]:
        return [one for one in super().of(owner) if one.path.exists()]

    def _remove(self, one: Upload) -> None:
        self.removed(one)  # First: it needs no room on the disk, and makes some.
        with suppress(ResourceError):
            super()._remove(one)

    def missing(self, id: str, param: str | None) -> RequestError:
        return RequestError(404, "file_not_found", f"there is no uploaded file {id!r:.80}; upload it again", param)

    def restored(self, fields: dict[str, Any]) -> Upload:
        return Upload(**fields | {"path": Path(fields["path"])})

    def removed(self, one: Upload) -> None:
        one.path.unlink(missing_ok=True)

    def forget_old(self) -> None:
        """Remove what has expired, what has no file any more, and what processes that died have left of uploads."""
        super().forget_old()
        with self._reading():
            lost = [one for one in self._found("") if not one.path.exists()]
        for one in lost:
            super()._remove(one)
        files = {path.stem: path for path in Path(self.folder).iterdir()}
        with self._reading():
            known = self._index.execute("SELECT id FROM kept UNION SELECT id FROM reserved").fetchall()
        for id in files.keys() - {one for (one,) in known}:
            files[id].unlink(missing_ok=True)

    def by_their_names(self, text: str) -> str:
        """Replace the paths of files in a text by their clients' names."""
        if self.folder in text:
            for id in set(re.findall(r"file-[0-9a-f]{32}", text)):
                with self._reading():
                    for upload in self._found("WHERE id = ?", id):
                        text = text.replace(str(upload.path), upload.filename)
        return text

    def close(self) -> None:
        super().close()
        if self._own is not None:
            self._own.close()


class Incoming:
    """An upload in progress, written to its final path; `close` removes the file unless `keep` was called."""

    def __init__(self, uploads: Uploads, filename: str, owner: str) -> None:
        self.size = 0
        self._uploads, self._filename, self._owner, self._kept = uploads, filename, owner, False
        self._id = f"file-{secrets.token_hex(16)}"
        # A few raw formats can be recognised by their suffix only.
        suffix = PurePath(filename).suffix.lower()
        self._path = Path(uploads.folder, self._id + (suffix if SUFFIX.fullmatch(suffix) else ""))
        uploads.reserve(self._id, 0)  # Before there is a file, which is nobody's otherwise.
        try:
            with room_for_temporary_files():
                self._file = self._path.open("wb")
        except BaseException:
            uploads.release(self._id)
            raise

    def write(self, piece: bytes) -> None:
        """Append a chunk.

        Raises:
            RequestError: the file is larger than all upload space.
            ResourceError: the disk is full.
        """
        if self.size + len(piece) > self._uploads.space:
            space = self._uploads.space
            raise RequestError(413, "file_too_large", f"the file is larger than the {space} bytes of --upload-space")
        self.size += len(piece)
        self._uploads.reserve(self._id, self.size)
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
        self._uploads.add(upload)
        self._kept = True
        return upload

    def close(self) -> None:
        """Remove the file, unless it was kept."""
        if self._kept:
            return
        with suppress(OSError):  # A full disk fails the final flush, too.
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._uploads.release(self._id)
