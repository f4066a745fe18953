"""Images and videos as they are written on the command line."""

import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mossvl.errors import MediaError
from mossvl.media.data_url import is_data_url, media_type
from mossvl.media.fetch import is_remote, local_file, source_name
from mossvl.media.limits import MediaLimits

TYPES = mimetypes.MimeTypes()
TYPES.add_type("image/heic", ".heic")
TYPES.add_type("image/heif", ".heif")
PREFIXES = ("image:", "video:")
TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)")
"""[[hours:]minutes:]seconds."""


@dataclass(frozen=True)
class MediaArgument:
    """One image or video.

    Attributes:
        source: a path or a URL.
        kind: "image" or "video".
        segment: seconds: () for all of it, (start, end) for a part, (instant,) for one frame.
    """

    source: str
    kind: str
    segment: tuple[float, ...] = ()

    @property
    def video(self) -> str | dict[str, Any]:
        """As one of a query's videos."""
        return {"video_path": self.source, "segments": [list(self.segment)]} if self.segment else self.source

    @property
    def part(self) -> dict[str, Any]:
        """As part of a message."""
        return {"type": self.kind, self.kind: self.video if self.kind == "video" else self.source}


def parse_media(argument: str) -> MediaArgument:
    """Read `[image:|video:]PATH-OR-URL[#t=START,END | #t=INSTANT]`.

    Something with a time is a video. Otherwise the content of a file tells, and the extension of a URL. A file whose
    whole name is `argument` is that file.

    Raises:
        MediaError: no such file, no such time, or nothing tells whether a URL is an image or a video.
    """
    if Path(argument).is_file():
        return MediaArgument(argument, kind_of(argument))
    prefix = next((prefix for prefix in PREFIXES if argument.startswith(prefix)), "")
    source, mark, fragment = argument.removeprefix(prefix).partition("#t=")
    if not is_remote(source):
        with local_file(source, MediaLimits()):
            pass  # It is there, and readable.
    if not mark:
        return MediaArgument(source, prefix.removesuffix(":") or kind_of(source))
    if prefix.startswith("image"):
        raise MediaError(f"{argument}: an image has no times; leave out {mark}{fragment}, or write video:")
    return MediaArgument(source, "video", parse_segment(fragment, argument.removeprefix(prefix)))


def parse_video(argument: str) -> MediaArgument:
    """As `parse_media`, of what can only be a video."""
    if Path(argument).is_file():
        return MediaArgument(argument, "video")
    return parse_media(f"video:{argument.removeprefix('video:')}")


def parse_segment(text: str, argument: str) -> tuple[float, ...]:
    """`START,END` or `INSTANT` → seconds."""
    times = [parse_time(time) for time in text.split(",")]
    seconds = tuple(time for time in times if time is not None)
    if len(seconds) != len(times) or len(times) > 2:
        raise MediaError(
            f"{argument}: {text!r} is not a time; write #t=START,END for a part of a video or #t=INSTANT for a frame, "
            "in seconds or as [hours:]minutes:seconds"
        )
    if len(seconds) == 2 and seconds[0] >= seconds[1]:
        raise MediaError(f"{argument}: the part must end after it starts")
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
    """Whether a path or URL is an "image" or a "video"; an animation counts as an image.

    Raises:
        MediaError: there is no such file, or nothing tells what a URL is.
    """
    from mossvl.media.formats import open_pillow

    guessed = _guessed_kind(source)
    if is_remote(source):
        if not guessed:
            raise MediaError(
                f"{source_name(source)}: its name does not tell what it is; write image:URL or video:URL instead"
            )
        return guessed
    with local_file(source, MediaLimits()) as path:
        try:
            with open_pillow(source, path, MediaLimits()):
                return "image"
        except MediaError:  # No image, or a broken one: then its name tells which error the user should see.
            return guessed or "video"


def _guessed_kind(source: str) -> str:
    """ "image", "video" or "" by the name alone, or by the type that a data URL states."""
    if is_data_url(source):
        kind: str | None = media_type(source)
    else:
        kind, _ = TYPES.guess_type(urlsplit(source).path if is_remote(source) else source)
    kind = (kind or "").partition("/")[0].lower()
    return kind if kind in ("image", "video") else ""
