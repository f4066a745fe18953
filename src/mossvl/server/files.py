"""Content parts of APIs that name a medium in other ways than by the URL of an image or a video."""

import mimetypes
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from mossvl.errors import PromptError
from mossvl.media.data_url import is_data_url
from mossvl.server.reading import UPLOAD

ID = "file_id"
DATA = "file_data"


def medium_of(
    kind: str | None, given: Mapping[str, str | None], options: Mapping[str, Any], filename: str | None = None
) -> dict[str, Any]:
    """Return a part of a chat message.

    Args:
        kind: "image" or "video"; if None, the medium's type or name tells.
        given: the part's fields of which one must name the medium: its URL, its data or an uploaded file's id.
        options: of the medium.
        filename: the client's name for it.

    Raises:
        PromptError: none of the fields is given, or several are, or the medium is neither an image nor a video.
    """
    named = [(name, value) for name, value in given.items() if value]
    if len(named) != 1:
        raise PromptError(f"a part needs one of {', '.join(given)}, but has {len(named)} of them")
    ((name, value),) = named
    url = f"{UPLOAD}{value}" if name == ID else value
    if name == DATA and not is_data_url(value):
        url = f"data:{type_of(filename)};base64,{value}"
    kind = kind or kind_of(url, filename)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url, **options}}


def kind_of(url: str, filename: str | None) -> str:
    """Return "image" or "video".

    Raises:
        PromptError: the medium is neither, as far as its media type or its name tells.
    """
    kind = url[5:].lstrip().partition("/")[0].lower() if is_data_url(url) else ""
    if kind not in ("image", "video"):
        kind = type_of(filename or urlsplit(url).path).partition("/")[0]
    if kind not in ("image", "video"):
        raise PromptError(
            f"{filename or url!r:.80} is no image and no video by its type or name; this model reads only these. Name "
            "one with its suffix (filename), or send it as an image or a video part"
        )
    return kind


def type_of(name: str | None) -> str:
    """Return the media type of a file's name; "" if it tells none."""
    suffix = PurePosixPath(name or "").suffix.lower()
    return mimetypes.guess_type(f"file{suffix}")[0] or ""
