"""Content parts as other APIs and libraries spell them → this server's spelling."""

from collections.abc import Callable, Mapping
from typing import Any

from mossvl.options.checks import present

Given = dict[str, Any]

FRAMES_URL = "data:video/jpeg;base64,"
"""Begins vLLM's URL of a video's frames: JPEG files in base64, separated by commas."""
FRAMES_PER_SECOND = 1.0
"""Of frames that come without times, where `fps` does not say it."""
SOURCES = {
    "image": ("image_url", "image", "url", "base64"),
    "video": ("video_url", "video", "url", "base64"),
}
"""Keys under which a part may hold its medium."""
UPLOADED = "file_id"
OF_PART = ("uuid", "cache_control")
OF_FILE = (UPLOADED, "file_data", "file_url", "filename")


def spelled(part: Any) -> Any:
    """Return a content part in this server's spelling; what is of no known spelling stays as it is."""
    kind = part.get("type") if isinstance(part, dict) else None
    spell = SPELLINGS.get(kind) if isinstance(kind, str) else None
    return part if spell is None else spell(present(part))


def _text(part: Given) -> Given:
    return part | {"type": "text"}


def _file(part: Given) -> Given:
    """`input_file`, whose keys are those of a `file` part's object."""
    source = {name: part.pop(name) for name in OF_FILE if name in part}
    return part | {"type": "file", "file": source}


def _medium(kind: str) -> Callable[[Given], Given]:
    def spell(part: Given) -> Given:
        found = {name: part.pop(name) for name in OF_PART if name in part}
        part.pop("type")
        if UPLOADED in part:
            source: Any = f"upload:{part.pop(UPLOADED)}"
        else:
            key = next((name for name in SOURCES[kind] if name in part), None)
            source = None if key is None else part.pop(key)
        own = {"url": source} if source is not None and not isinstance(source, Mapping) else dict(source or {})
        own |= part  # Options stand beside the medium, or with it.
        if kind == "video" and (frames := _frames(own)) is not None:
            return found | {"type": "video_frames", "video_frames": frames}
        return found | {"type": f"{kind}_url", f"{kind}_url": own}

    return spell


def _video_url(part: Given) -> Given:
    """A video in this server's spelling, which may still be frames in one URL."""
    given = part.get("video_url")
    source = given.get("url") if isinstance(given, Mapping) else given
    return _medium("video")(part) if _of_frames(source) else part


def _of_frames(source: Any) -> bool:
    """Whether a video is given as frames without times: a list of URLs, or all in one."""
    in_one = isinstance(source, str) and source[: len(FRAMES_URL)].lower() == FRAMES_URL
    return in_one or isinstance(source, list)


def _frames(video: Given) -> Given | None:
    """A video that is given as frames without times, as frames with times; None if it is not."""
    source: Any = video.get("url")
    if not _of_frames(source):
        return None
    if isinstance(source, str):
        source = [f"data:image/jpeg;base64,{frame}" for frame in source[len(FRAMES_URL) :].split(",")]
    fps = video.get("fps", FRAMES_PER_SECOND)
    rate = fps if isinstance(fps, int | float) and fps > 0 else FRAMES_PER_SECOND  # The schema refuses other ones.
    frames = [{"timestamp": number / rate, "url": frame} for number, frame in enumerate(source)]
    return {name: value for name, value in video.items() if name != "url"} | {"frames": frames, "fps": fps}


SPELLINGS: dict[str, Callable[[Given], Given]] = {
    "input_text": _text,
    "input_image": _medium("image"),
    "image": _medium("image"),
    "input_video": _medium("video"),
    "video": _medium("video"),
    "video_url": _video_url,
    "input_file": _file,
}
"""How parts of other types are spelled here, and videos, which may be frames in one URL."""
