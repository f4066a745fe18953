"""Lines of a data file → queries or examples, whether they were written as queries or for fine-tuning."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mossvl.errors import DataError
from mossvl.media.fetch import is_remote

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
EXAMPLE_KEYS = ("conversations", "messages", "prompt", "response", "images", "videos", "system_prompt")
"""What is read of a record that is to be learned from."""
MISTAKEN = {
    **{name: name for name in EXAMPLE_KEYS},
    "conversation": "conversations",
    "message": "messages",
    **dict.fromkeys(("image", "image_path", "image_paths", "img", "imgs", "picture", "pictures"), "images"),
    **dict.fromkeys(("video", "video_path", "video_paths", "clip", "clips"), "videos"),
    "system": "system_prompt",
}
"""Keys, in small letters, that mean one of these but are not it."""
PLACEHOLDER = re.compile(r"<\|image\|>|<\|video\|>|<image>|<video>")

BOM = b"\xef\xbb\xbf"

Part = dict[str, Any]
Turn = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A line that is not empty.

    Attributes:
        index: from 0, empty lines not counted.
        number: from 1, all lines counted, as editors do.
        text: without space around it, nor the mark that a file may begin with.
        start: byte of the file where the text begins.
        digest: tells lines of different content apart.
    """

    index: int
    number: int
    text: bytes
    start: int = 0

    @property
    def length(self) -> int:
        """In bytes."""
        return len(self.text)

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.text, digest_size=8).hexdigest()


def lines_of(file: Iterable[bytes]) -> Iterator[Line]:
    """Lines of a file that was opened as binary, one in memory at a time."""
    index = start = 0
    for number, raw in enumerate(file, 1):
        text = raw.removeprefix(BOM).strip() if number == 1 else raw.strip()
        if text:
            yield Line(index, number, text, start + raw.find(text))
            index += 1
        start += len(raw)


def parse_line(line: Line) -> dict[str, Any]:
    """The record on a line.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        record = json.loads(line.text.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {line.number} is not JSON ({error}); expected one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"line {line.number} holds {type(record).__name__} {record!r:.80}; expected an object {{…}}")
    return record


def as_query(record: Mapping[str, Any], media_dir: Path) -> dict[str, Any]:
    """A record → a query of the offline interface; its `id` is left out.

    Args:
        record: a query; or a fine-tuning record, that is `conversations` (or `messages`), or `prompt` and `response`,
            with `images` and `videos` beside them. Answers at the end, which a model is to give, are dropped.
        media_dir: where relative paths of media start.

    Raises:
        DataError: turns are malformed, or placeholders do not match the media.
    """
    query = {name: value for name, value in record.items() if name not in ("id", "response")}
    if "conversations" in query:
        if query.get("messages") is not None or query.get("prompt") is not None:
            raise DataError("a record with conversations has neither messages nor a prompt beside them")
        query["messages"] = _turns(query.pop("conversations"))
    elif "response" in record and isinstance(query.get("prompt"), str) and PLACEHOLDER.search(query["prompt"]):
        query["messages"] = [{"role": "user", "content": query.pop("prompt")}]
    if isinstance(query.get("messages"), list):
        query["messages"] = _without_answer(_with_media(query))
        query = {name: value for name, value in query.items() if name not in ("images", "videos")}
    return _resolved(query, media_dir)


def as_example(record: Mapping[str, Any], media_dir: Path) -> list[Turn]:
    """A fine-tuning record → its messages, answers included and media in their places.

    Args:
        record: `conversations` or `messages`, or `prompt` and `response`; with `images` and `videos` beside them, whose
            places are those of `<|image|>` and `<|video|>`, or else before the first question; and a `system_prompt`.
        media_dir: where relative paths of media start.

    Raises:
        DataError: it is none of these, a key is like one of them, turns are malformed, there is no answer, or
            placeholders do not match the media.
    """
    for name in unread_keys(record):
        if name.lower() in MISTAKEN:
            raise DataError(f"unknown key {name!r}; did you mean {MISTAKEN[name.lower()]!r}?")
        if name == "media_kwargs":
            raise DataError("media_kwargs are for queries; give flags, or options in the part of a medium")
    forms = [name for name in ("conversations", "messages", "prompt") if record.get(name) is not None]
    if len(forms) != 1:
        found = " and ".join(forms) or f"none in {', '.join(map(str, record)) or 'an empty object'}"
        raise DataError(f"a record has either conversations, or messages, or a prompt and a response, but: {found}")
    if forms == ["prompt"]:
        if "response" not in record:
            raise DataError("a record with a prompt needs a response, too")
        prompt, response = record["prompt"], record["response"]
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise DataError(f"prompt={prompt!r:.80} and response={response!r:.80} must both be texts")
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    elif record.get("response") is not None:
        raise DataError(f"a record with {forms[0]} has its answers in them; remove 'response'")
    else:
        turns = _turns(record[forms[0]])
    turns = [*_system_turn(record.get("system_prompt"), turns), *turns]
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError("there is nothing to learn: no turn is the assistant's")
    media = {name: record[name] for name in ("images", "videos") if name in record}
    marks = [mark for turn in turns for mark in PLACEHOLDER.findall(_text(turn))]
    if marks and not any(media.values()):
        raise DataError(f"the text has the placeholder {marks[0]}, but there are no images and no videos beside it")
    messages: list[Turn] = _resolved({"messages": _with_media({**media, "messages": turns})}, media_dir)["messages"]
    return messages


def unread_keys(record: Mapping[str, Any]) -> list[str]:
    """Keys that hold something and are not read: an id, a source."""
    return [name for name, value in record.items() if name not in EXAMPLE_KEYS and value not in (None, "", [], {})]


def _system_turn(prompt: Any, turns: Sequence[Turn]) -> list[Turn]:
    """The turn of a record's `system_prompt`, if it has one."""
    if prompt in (None, ""):
        return []
    if not isinstance(prompt, str):
        raise DataError(f"system_prompt={prompt!r:.80} must be a text")
    if any(turn["role"] == "system" for turn in turns):
        raise DataError("a record has either a system_prompt or a system turn, but this one has both")
    return [{"role": "system", "content": prompt}]


def _turns(conversations: Any) -> list[Turn]:
    """[{"from": …, "value": …}] or [{"role": …, "content": …}] → messages."""
    if not isinstance(conversations, list) or not conversations:
        raise DataError(f"conversations must be a list of turns, and not empty, but is {conversations!r:.200}")
    turns = []
    for number, turn in enumerate(conversations, 1):
        if not isinstance(turn, dict):
            raise DataError(f"turn {number} must be an object, but is {turn!r:.200}")
        given = turn.get("from", turn.get("role"))
        role = ROLES.get(given) if isinstance(given, str) else None
        content = turn.get("value", turn.get("content"))
        if role is None:
            raise DataError(f"turn {number} is from {given!r}; known: {', '.join(ROLES)}")
        if content is None:
            raise DataError(f'turn {number} has neither "value" nor "content"')
        turns.append({"role": role, "content": content})
    return turns


def _with_media(query: Mapping[str, Any]) -> list[Turn]:
    """Messages in which each placeholder has become its medium; without any, media stand before the first question."""
    turns = [dict(turn) if isinstance(turn, dict) else turn for turn in query["messages"]]
    media = {kind: _listed(query, f"{kind}s") for kind in ("image", "video")}
    if not any(media.values()):
        return turns
    marked = [turn for turn in turns if isinstance(turn, dict) and PLACEHOLDER.search(_text(turn))]
    found = [_kind(mark) for turn in marked for mark in PLACEHOLDER.findall(_text(turn))]
    if not found:
        return _before_first_question(turns, media)
    if found.count("video") != len(media["video"]):
        media["video"] = [part for video in media["video"] for part in _segments(video)]
    for kind, given in media.items():
        if found.count(kind) != len(given):
            raise DataError(f"the text has {found.count(kind)} {kind} placeholders, but there are {len(given)} {kind}s")
    rest = {kind: iter(given) for kind, given in media.items()}
    for turn in marked:
        turn["content"] = list(_parts(_text(turn), rest))
    return turns


def _listed(query: Mapping[str, Any], name: str) -> list[Any]:
    given = query.get(name)
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def _text(turn: Turn) -> str:
    """A turn's content where that is a text; placeholders are looked for nowhere else."""
    content = turn.get("content")
    return content if isinstance(content, str) else ""


def _segments(video: Any) -> list[Any]:
    """A video of several segments as one of each, since segments have placeholders of their own."""
    segments = video.get("segments") if isinstance(video, dict) else None
    return [{**video, "segments": [segment]} for segment in segments] if isinstance(segments, list) else [video]


def _kind(mark: str) -> str:
    return "image" if "image" in mark else "video"


def _parts(text: str, media: Mapping[str, Iterator[Any]]) -> Iterator[Part]:
    """A text cut at its placeholders, with the media in between."""
    start = 0
    for mark in PLACEHOLDER.finditer(text):
        if text[start : mark.start()]:
            yield {"type": "text", "text": text[start : mark.start()]}
        kind = _kind(mark[0])
        yield {"type": kind, kind: next(media[kind])}
        start = mark.end()
    if text[start:]:
        yield {"type": "text", "text": text[start:]}


def _before_first_question(turns: list[Turn], media: Mapping[str, list[Any]]) -> list[Turn]:
    first = next((turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"), None)
    if first is None:
        raise DataError("there are media, but no question that they could belong to")
    content = first.get("content")
    own = content if isinstance(content, list) else [content]
    first["content"] = [*({"type": kind, kind: one} for kind, given in media.items() for one in given), *own]
    return turns


def _without_answer(turns: list[Turn]) -> list[Turn]:
    """Without the answers at the end."""
    end = len(turns)
    while end and isinstance(turns[end - 1], dict) and turns[end - 1].get("role") == "assistant":
        end -= 1
    if turns and not end:
        raise DataError("there is no question: every turn is an answer")
    return turns[:end]


def _resolved(query: dict[str, Any], media_dir: Path) -> dict[str, Any]:
    """The query with relative paths of media put below `media_dir`."""
    for kind in ("image", "video"):
        if query.get(f"{kind}s") is not None:
            query[f"{kind}s"] = _located(query[f"{kind}s"], media_dir)
    if isinstance(query.get("messages"), list):
        query["messages"] = [_turn_located(turn, media_dir) for turn in query["messages"]]
    return query


def _turn_located(turn: Any, media_dir: Path) -> Any:
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    parts = []
    for part in turn["content"]:
        named = isinstance(part, dict) and [kind for kind in ("image", "video") if kind in part]
        parts.append({**part, **{kind: _located(part[kind], media_dir) for kind in named}} if named else part)
    return {**turn, "content": parts}


def _located(medium: Any, media_dir: Path) -> Any:
    """A medium, or a list of media or of frames with their times."""
    if isinstance(medium, str):
        return medium if is_remote(medium) or medium.lower().startswith("file://") else str(media_dir / medium)
    if isinstance(medium, list):
        return [_located(one, media_dir) for one in medium]
    if isinstance(medium, dict):
        paths = {name: _located(medium[name], media_dir) for name in ("video_path", "image") if name in medium}
        return {**medium, **paths}
    return medium
