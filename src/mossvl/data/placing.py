"""Media of records: moved from columns to their placeholders, and relative paths resolved."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mossvl.errors import DataError
from mossvl.media.fetch import is_remote
from mossvl.options.checks import present
from mossvl.processing.parts import Message, known_medium, known_part

PLACEHOLDER = re.compile(r"<\|image\|>|<\|video\|>|<image>|<video>")

Part = dict[str, Any]


def with_media(query: Mapping[str, Any]) -> list[Message]:
    """Return the messages of a record with its media columns put in place; without places, before the first question.

    A place is a placeholder in a text other than an answer, or a part of type image or video that names no medium. In a
    record with videos alone, `<image>` is a video's place, too, as in LLaVA-Video's data.

    Raises:
        DataError: the numbers of places and media differ, or there are media but no question.
    """
    media = {kind: _listed(query, f"{kind}s") for kind in ("image", "video")}
    media["video"] = [{"bytes": one} if isinstance(one, bytes) else one for one in media["video"]]
    beside = any(media.values())
    if media["video"] and not media["image"]:
        query = {**query, "messages": [_with_video_marks(turn) for turn in query["messages"]]}
    turns = [_with_known_parts(turn) if isinstance(turn, dict) else turn for turn in query["messages"]]
    unfilled = [(turn, _places(turn, beside)) for turn in turns if isinstance(turn, dict)]
    places = [kind for _, kinds in unfilled for kind in kinds]
    if not places:
        return _before_first_question(turns, media) if beside else turns
    if places.count("video") != len(media["video"]):
        media["video"] = [part for video in media["video"] for part in _segments(video)]
    for kind, given in media.items():
        if places.count(kind) != len(given):
            raise DataError(
                f"the text has {places.count(kind)} {kind} placeholders, but there are {len(given)} {kind}s"
            )
    rest = {kind: iter(given) for kind, given in media.items()}
    for turn, kinds in unfilled:
        if kinds:
            turn["content"] = list(_filled(turn["content"], rest))
    return turns


def _with_known_parts(turn: Message) -> Message:
    content = turn.get("content")
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list):
        return dict(turn)
    return {**turn, "content": [known_part(part) if isinstance(part, dict) else part for part in parts]}


def _places(turn: Message, beside: bool) -> list[str]:
    """Return the kinds of a turn's places, in order; texts have places only if the record has media columns."""
    content = turn.get("content")
    if isinstance(content, list):
        return [part["type"] for part in content if _is_empty(part)]
    return [_kind(mark) for mark in PLACEHOLDER.findall(asked(turn))] if beside else []


def _is_empty(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("image", "video") and part["type"] not in part


def _filled(content: str | list[Any], media: Mapping[str, Iterator[Any]]) -> Iterator[Any]:
    """Yield the parts of a content, its places filled with media."""
    if isinstance(content, str):
        yield from _parts(content, media)
    else:
        for part in content:
            yield {**part, part["type"]: next(media[part["type"]])} if _is_empty(part) else part


def _listed(query: Mapping[str, Any], name: str) -> list[Any]:
    given = query.get(name)
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def asked(turn: Message) -> str:
    """Return the text that may hold placeholders: the whole content of a turn other than an answer, else ""."""
    content = turn.get("content")
    return content if isinstance(content, str) and turn.get("role") != "assistant" else ""


def _with_video_marks(turn: Any) -> Any:
    """A turn whose `<image>` placeholders are `<video>`."""
    if not isinstance(turn, dict) or not asked(turn):
        return turn
    return {**turn, "content": turn["content"].replace("<image>", "<video>")}


def _segments(video: Any) -> list[Any]:
    """Split a video of several segments into one video for each, as each segment has its own placeholder."""
    segments = video.get("segments") if isinstance(video, dict) else None
    return [{**video, "segments": [segment]} for segment in segments] if isinstance(segments, list) else [video]


def _kind(mark: str) -> str:
    return "image" if "image" in mark else "video"


def _parts(text: str, media: Mapping[str, Iterator[Any]]) -> Iterator[Part]:
    """Split a text at its placeholders, with media in their place."""
    start = 0
    for mark in PLACEHOLDER.finditer(text):
        if text[start : mark.start()]:
            yield {"type": "text", "text": text[start : mark.start()]}
        kind = _kind(mark[0])
        yield {"type": kind, kind: next(media[kind])}
        start = mark.end()
    if text[start:]:
        yield {"type": "text", "text": text[start:]}


def _before_first_question(turns: list[Message], media: Mapping[str, list[Any]]) -> list[Message]:
    first = next((turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"), None)
    if first is None:
        raise DataError("there are media, but no question that they could belong to")
    content = first.get("content")
    own = content if isinstance(content, list) else [content]
    first["content"] = [*({"type": kind, kind: medium} for kind, given in media.items() for medium in given), *own]
    return turns


def located(query: dict[str, Any], media_dir: Path) -> dict[str, Any]:
    """Resolve relative paths of media against `media_dir`, in place."""
    for kind in ("image", "video"):
        if query.get(f"{kind}s") is not None:
            query[f"{kind}s"] = _known(_at(query[f"{kind}s"], media_dir), kind)
    if isinstance(query.get("messages"), list):
        query["messages"] = [_turn_at(turn, media_dir) for turn in query["messages"]]
    return query


def _known(media: Any, kind: str) -> Any:
    """Sources of media that a dataset's table holds as bytes; other media as they are."""
    if isinstance(media, list):
        return [_known(one, kind) for one in media]
    return known_medium(media, kind) if isinstance(media, dict) and "bytes" in media else media


def _turn_at(turn: Any, media_dir: Path) -> Any:
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    parts = []
    for part in turn["content"]:
        named = isinstance(part, dict) and [kind for kind in ("image", "video") if kind in part]
        parts.append({**part, **{kind: _at(part[kind], media_dir) for kind in named}} if named else part)
    return {**turn, "content": parts}


def _at(medium: Any, media_dir: Path) -> Any:
    """Resolve the paths of a medium, of a list of media, or of a list of frames."""
    if isinstance(medium, str):
        return medium if is_remote(medium) or medium.lower().startswith("file://") else str(media_dir / medium)
    if isinstance(medium, list):
        return [_at(item, media_dir) for item in medium]
    if isinstance(medium, dict):
        return {
            name: _at(value, media_dir) if name in ("video_path", "image", "path") else value
            for name, value in present(medium).items()
        }
    return medium
