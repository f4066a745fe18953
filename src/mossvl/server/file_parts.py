"""Parts that hold a file of any kind: whether it is an image or a video."""

import base64
from collections.abc import Callable
from contextlib import suppress
from mimetypes import guess_type

from mossvl.media.data_url import is_data_url, media_type
from mossvl.media.formats import begins_as_image
from mossvl.server.errors import RequestError
from mossvl.server.schemas.parts import FilePart, ImagePart, VideoPart

UNTOLD = (
    *("application/octet-stream", "binary/octet-stream", "text/plain"),
    *("application/mp4", "application/ogg", "application/vnd.apple.mpegurl", "application/x-mpegurl"),
)
"""Media types of files that may be videos; "text/plain" is that of data: URLs without any."""
LONGEST_NAME = 1000
"""Characters of a URL, or of its data, that are looked at."""
HEAD = 64
"""Bytes of a file that tell its format."""


def medium_of(part: FilePart, file_of: Callable[[str], str]) -> ImagePart | VideoPart:
    """Return a file as the image or video that it is: by its media type, its name or, without these, its content.

    Args:
        file_of: returns the path of an uploaded file, by id; its ending is that of the file's name.

    Raises:
        RequestError: the part holds no file, or more than one; or a file of another kind.
    """
    file = part.file
    given = [one for one in (file.file_id, file.file_data, file.file_url) if one is not None]
    if len(given) != 1:
        message = "a file part needs one of file_id, file_data and file_url"
        raise RequestError(400, "invalid_request", message, "messages")
    path = None if file.file_id is None else file_of(file.file_id)
    url = given[0] if path is None else f"upload:{file.file_id}"
    name = file.filename or path or (file.file_url or "").partition("?")[0][-LONGEST_NAME:]
    kind = _kind(name, given[0], path)
    if kind.partition("/")[0] == "image":
        return ImagePart.model_validate({"type": "image_url", "image_url": url})
    if kind.partition("/")[0] == "video":
        return VideoPart.model_validate({"type": "video_url", "video_url": url})
    message = f"{file.filename or file.file_id or file.file_url or 'file_data'!r:.80} is no image and no video"
    raise RequestError(
        400, "unsupported", f"{message}, but of type {kind:.80}; this model reads only these", "messages"
    )


def _kind(name: str, given: str, path: str | None) -> str:
    """Return the media type of a file, or "image" or "video" alone."""
    told = media_type(given) if is_data_url(given) else ""
    if told and told not in UNTOLD:
        return told
    guessed = guess_type(name, strict=False)[0]
    if guessed and guessed not in UNTOLD:
        return guessed
    return "image" if begins_as_image(_head(given, path)) else "video"


def _head(given: str, path: str | None) -> bytes:
    """Return the first bytes of a file that is at hand; of a URL, none."""
    if path is not None:
        with open(path, "rb") as file:
            return file.read(HEAD)
    start = given[:LONGEST_NAME].partition(",")[2] if is_data_url(given) else given[:LONGEST_NAME]
    with suppress(ValueError):  # What is no base64 is told by whoever reads it.
        return base64.b64decode(start[: HEAD // 3 * 4], altchars=b"-_" if set("-_") & set(start) else None)
    return b""
