"""Arguments of the command line that name images and videos."""

import mimetypes
import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mossvl.cli.places import PREFIXES, check_medium
from mossvl.errors import MediaError
from mossvl.media.data_url import is_data_url, media_type
from mossvl.media.fetch import is_remote, local_file, source_name
from mossvl.media.limits import MediaLimits

TYPES = mimetypes.MimeTypes()
TYPES.add_type("image/heic", ".heic")
TYPES.add_type("image/heif", ".heif")
TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)")
"""[[hours:]minutes:]seconds."""


@dataclass(frozen=True)
class MediaArgument:
    """An image or video that an argument names.

    Attributes:
        source: a path or a URL.
        kind: "image" or "video".
        segment: in seconds; (start, end), (instant,) for one frame, or () for the whole medium.
    """

    source: str
    kind: str
    segment: tuple[float, ...] = ()

    @property
    def video(self) -> str | dict[str, Any]:
        """The video as an item of a query's `videos`."""
        return {"video_path": self.source, "segments": [list(self.segment)]} if self.segment else self.source

    @property
    def part(self) -> dict[str, Any]:
        """The medium as a content part of a message."""
        return {"type": self.kind, self.kind: self.video if self.kind == "video" else self.source}


def parse_media(argument: str) -> MediaArgument:
    """Read `[image:|video:]PATH-OR-URL[#t=START,END | #t=INSTANT]`.

    A medium with a time is a video; otherwise a file's content or a URL's extension decides. An argument that is the
    name of a file is that file.

    Raises:
        MediaError: the file is missing, the time is malformed, or the extension of a URL does not tell its kind.
    """
    if os.path.isfile(argument):
        return MediaArgument(argument, kind_of(argument))
    check_medium(argument)
    prefix = next((prefix for prefix in PREFIXES if argument.startswith(prefix)), "")
    source, mark, fragment = argument.removeprefix(prefix).partition("#t=")
    if not mark:
        return MediaArgument(source, prefix.removesuffix(":") or kind_of(source))
    if prefix.startswith("image"):
        raise MediaError(f"{argument}: an image has no times; leave out {mark}{fragment}, or write video:")
    return MediaArgument(source, "video", parse_segment(fragment, argument.removeprefix(prefix)))


def parse_video(argument: str) -> MediaArgument:
    """As `parse_media`, for an argument that must be a video."""
    if os.path.isfile(argument):
        return MediaArgument(argument, "video")
    return parse_media(f"video:{argument.removeprefix('video:')}")


def parse_segment(text: str, argument: str) -> tuple[float, ...]:
    """`START,END` or `INSTANT` → seconds."""
    times = [parse_time(time) for time in text.split(",")]
    seconds = tuple(time for time in times if time is not None)
    if len(seconds) != len(times) or len(times) > 2:
        raise MediaError(
            f"{argument}: {text!r} is not a time; write #t=START,END for a segment or #t=INSTANT for a frame, in "
            "seconds or as [hours:]minutes:seconds"
        )
    if len(seconds) == 2 and seconds[0] >= seconds[1]:
        raise MediaError(f"{argument}: the segment must end after its start")
    return seconds


def parse_time(text: str) -> float | None:
    """`90`, `1:30` or `0:01:30.0` → seconds; None for anything else."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    if match[2] is not None and (seconds >= 60 or (match[1] is not None and minutes >= 60)):
        return None
    return 3600 * hours + 60 * minutes + seconds


def kind_of(source: str) -> str:
    """Return "image" or "video" for a path or URL; an animated image is an image.

    Raises:
        MediaError: the file is missing, or the extension of a URL does not tell its kind.
    """
    from mossvl.media.formats import open_pillow

    guessed = _guessed_kind(source)
    if is_remote(source):
        if not guessed:
            raise MediaError(
                f"{source_name(source)}: the URL does not tell whether it is an image or a video; write "
                "image:URL or video:URL"
            )
        return guessed
    with local_file(source, MediaLimits()) as path:
        try:
            with open_pillow(source, path, MediaLimits()):
                return "image"
        except MediaError:  # No image, or a broken one: the name decides which error the user gets.
            return guessed or "video"


def _guessed_kind(source: str) -> str:
    """Return "image", "video" or "" by the extension, or by the media type of a data URL."""
    if is_data_url(source):
        kind: str | None = media_type(source)
    else:
        kind, _ = TYPES.guess_type(urlsplit(source).path if is_remote(source) else source)
    kind = (kind or "").partition("/")[0].lower()
    return kind if kind in ("image", "video") else ""
