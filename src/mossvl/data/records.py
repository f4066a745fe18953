"""Lines of data files, and records turned into queries or fine-tuning examples."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mossvl.data.forms import COMMON_KEYS, form_of, known_record, turns_of
from mossvl.data.placing import PLACEHOLDER, asked, located, with_media
from mossvl.errors import DataError, InputError
from mossvl.processing.parts import Message, known_part
from mossvl.processing.system_prompt import SystemPrompt

MISTAKEN = {
    **{name: name for name in COMMON_KEYS},
    "conversation": "conversations",
    "message": "messages",
    **dict.fromkeys(("image_path", "image_paths", "img", "imgs", "picture", "pictures"), "images"),
    **dict.fromkeys(("video_path", "video_paths", "clip", "clips"), "videos"),
}
"""Likely mistakes for COMMON_KEYS, in lower case, with the key that is meant."""

BOM = b"\xef\xbb\xbf"
LONGEST = 1 << 28
"""Most bytes of a line, and most characters of a list's item; longer ones are errors."""


@dataclass(frozen=True)
class Line:
    """A non-empty line.

    Attributes:
        index: counted from 0, without empty lines.
        number: counted from 1, with empty lines, as in editors.
        text: without surrounding whitespace and byte order mark.
        start: byte offset of `text` in the file.
        digest: hash of `text`.
    """

    index: int
    number: int
    text: bytes
    start: int = 0

    @property
    def length(self) -> int:
        """Bytes of `text`."""
        return len(self.text)

    @property
    def place(self) -> str:
        return f"line {self.number}"

    @property
    def digest(self) -> str:
        return digest_of(self.text)


def digest_of(content: bytes) -> str:
    """Hash of a question, by which a run that goes on knows it."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """Yield the non-empty lines of a binary file, one in memory at a time, each truncated to LONGEST bytes."""
    index = start = 0
    for number in itertools.count(1):
        raw = more = file.readline(LONGEST)
        size = len(raw)
        if not raw:
            return
        while len(more) == LONGEST and not more.endswith(b"\n"):
            more = file.readline(LONGEST)
            size += len(more)
        text = raw.removeprefix(BOM).strip() if number == 1 else raw.strip()
        if text:
            yield Line(index, number, text, start + raw.find(text))
            index += 1
        start += size


def parse_line(line: Line) -> dict[str, Any]:
    """Parse the record of a line.

    Raises:
        DataError: the line is not a JSON object.
    """
    try:
        record = json.loads(line.text.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {line.number} is not JSON ({error}); expected one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"line {line.number} holds {type(record).__name__} {record!r:.80}; expected an object {{…}}")
    return record


def as_query(record: Mapping[str, Any], media_dir: Path) -> dict[str, Any]:
    """Turn a record into a query of the offline interface, without its `id`.

    Args:
        record: a query, or a fine-tuning record: `conversations` (or `messages`), or `prompt` and `response`, with
            `images` and `videos`. Trailing answers are dropped.
        media_dir: folder against which relative paths of media are resolved.

    Raises:
        DataError: turns are malformed, or placeholders do not match the media.
    """
    record = known_record(record, answered=False)
    query = {name: value for name, value in record.items() if name not in ("id", "response")}
    if "conversations" in query:
        if "messages" in query or "prompt" in query:
            raise DataError("a record with conversations has neither messages nor a prompt beside them")
        query["messages"] = turns_of(query.pop("conversations"))
    elif "response" in record and isinstance(query.get("prompt"), str) and PLACEHOLDER.search(query["prompt"]):
        query["messages"] = [{"role": "user", "content": query.pop("prompt")}]
    if isinstance(query.get("messages"), list):
        query["messages"] = _without_answer(with_media(query))
        query = {name: value for name, value in query.items() if name not in ("images", "videos")}
    return located(query, media_dir)


def as_example(record: Mapping[str, Any], media_dir: Path) -> list[Message]:
    """Turn a fine-tuning record into messages, answers included, media in place.

    Args:
        record: see `dialogue_of`; its media are placed at `<|image|>` and `<|video|>`, or at parts of these types, or
            before the first question.
        media_dir: folder against which relative paths of media are resolved.

    Raises:
        DataError: see `dialogue_of`; or placeholders do not match the media.
    """
    return with_media_placed(*dialogue_of(record), media_dir)


def dialogue_of(record: Mapping[str, Any]) -> tuple[list[Message], dict[str, Any]]:
    """The turns of a fine-tuning record, its system turn included, and its media: `images` and `videos`, if given.

    Args:
        record: `conversations` or `messages`, or `prompt` and `response`, or another form (see `known_record`); with
            `images` and `videos` (or `image` and `video`); and a `system_prompt` (or `system`), or the keys that choose
            a fixed one (see `SystemPrompt`).

    Raises:
        DataError: the record has another form, a key is mistaken, turns are malformed, or there is no answer.
    """
    for name in unread_keys(record):
        if name.lower() in MISTAKEN:
            raise DataError(f"unknown key {name!r}; did you mean {MISTAKEN[name.lower()]!r}?")
        if name == "media_kwargs":
            raise DataError("media_kwargs are for queries; give flags, or options in the part of a medium")
    given, record = record, known_record(record)
    forms = [name for name in ("conversations", "messages", "prompt") if name in record]
    if len(forms) != 1:
        found = " and ".join(forms) or f"none in {', '.join(map(str, given)) or 'an empty object'}"
        inner = next((name for name, value in record.items() if _lists_objects(value)), None)
        if inner is not None and not forms:
            raise DataError(
                f"this is an object around a list; put the objects under {inner!r} into a file of their own"
            )
        raise DataError(f"a record has either conversations, or messages, or a prompt and a response, but: {found}")
    if forms == ["prompt"]:
        if "response" not in record:
            raise DataError("a record with a prompt needs a response, too")
        prompt, response = record["prompt"], record["response"]
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise DataError(f"prompt={prompt!r:.80} and response={response!r:.80} must both be texts")
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    elif "response" in record:
        raise DataError(f"a record with {forms[0]} has its answers in them; remove 'response'")
    else:
        turns = turns_of(record[forms[0]])
    turns = [*_system_turn(record, turns), *turns]
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError("there is nothing to learn: no turn is the assistant's")
    media: dict[str, Any] = {name: record[name] for name in ("images", "videos") if name in record}
    return turns, media


def with_media_placed(turns: Sequence[Message], media: Mapping[str, Any], media_dir: Path) -> list[Message]:
    """The second half of `as_example`."""
    marks = [mark for turn in turns for mark in PLACEHOLDER.findall(asked(turn))]
    if marks and not any(media.values()):
        raise DataError(f"the text has the placeholder {marks[0]}, but there are no images and no videos beside it")
    messages: list[Message] = located({"messages": with_media({**media, "messages": turns})}, media_dir)["messages"]
    return messages


def unread_keys(record: Mapping[str, Any]) -> list[str]:
    """Return the non-empty keys that are not read, such as an id or a source; `metadata` are for no reader."""
    form = form_of(record)
    read = ("metadata", *COMMON_KEYS, *(form.keys if form else ()))
    return [name for name, value in record.items() if name not in read and value not in (None, "", [], {})]


def _lists_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _system_turn(record: Mapping[str, Any], turns: Sequence[Message]) -> list[Message]:
    """Return the system turn for the system prompt that a record gives or chooses; [] without one."""
    has_own = any(turn["role"] == "system" for turn in turns)
    contents = [turn["content"] for turn in turns]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    video = any(isinstance(part, dict) and "video" in known_part(part) for part in parts)
    try:
        text = SystemPrompt.of(record).text(video or bool(record.get("videos")), has_own)
    except InputError as error:
        raise DataError(str(error)) from error
    if text and has_own:
        raise DataError("a record has either a system_prompt or a system turn, but this one has both")
    return [{"role": "system", "content": text}] if text else []


def _without_answer(turns: list[Message]) -> list[Message]:
    """Drop trailing answers."""
    end = len(turns)
    while end and isinstance(turns[end - 1], dict) and turns[end - 1].get("role") == "assistant":
        end -= 1
    if turns and not end:
        raise DataError("there is no question: every turn is an answer")
    return turns[:end]
