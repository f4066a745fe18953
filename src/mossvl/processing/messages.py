"""Messages: their checks, their media, and their form for a chat template."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mossvl.errors import PromptError
from mossvl.options import MediaOptions
from mossvl.options.checks import check_names, present
from mossvl.processing.parts import Message as Message
from mossvl.processing.parts import known_medium, known_part
from mossvl.processing.plan import Medium, num_units
from mossvl.tools.definitions import strings_of
from mossvl.tools.turns import checked_calls

PARTS = {kind: f'{{"type": "{kind}", "{kind}": …}}' for kind in ("text", "image", "video")}
"""Parts of messages as errors show them, by type."""
ROLES = ("system", "user", "assistant", "tool")


def check_messages(messages: Any) -> list[Message]:
    """Check messages; make each content a text, or a list of parts {"type": KIND, KIND: …} of the kinds in `PARTS`.

    The part of a medium may also have options, such as `max_frames` (see `MediaOptions.OF_PARTS`). Other libraries'
    parts are converted (see `known_part`).

    Raises:
        OptionError: a part has an option that is unknown or out of range.
        PromptError: a message is not a dict with a role and a content, its role is not in `ROLES`, or a part has no
            known type.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise PromptError(f"messages={messages!r} must be a list of messages, and not empty")
    checked = []
    for number, message in enumerate(messages, 1):
        given = present(message) if isinstance(message, dict) else {}
        if given.get("role") == "assistant" and given.get("tool_calls"):
            given = {"content": "", **given, "tool_calls": checked_calls(given["tool_calls"], number)}
        if not isinstance(given.get("role"), str) or "content" not in given:
            raise PromptError(f"message {number} must be a dict with a role and a content, but is {message!r:.200}")
        check_role(given, number)
        message, content = given, given["content"]
        if isinstance(content, str):
            checked.append(dict(message))
            continue
        parts = [content] if isinstance(content, dict) else content
        if not isinstance(parts, list | tuple):
            raise PromptError(f"message {number}: content must be a text or a list of parts, but is {content!r:.200}")
        checked.append({**message, "content": [_part(part, number) for part in parts]})
    return checked


def _part(part: Any, number: int) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    given = part
    if isinstance(part, dict):
        part = known_part(part)
        kind = part.get("type") or next((name for name in ("image", "video", "text") if name in part), None)
        if kind in PARTS:
            source = part.get(kind)
            if source is None or (isinstance(source, dict) and not source):
                raise PromptError(f"message {number}: the part {given!r:.200} holds no {kind}; write {PARTS[kind]}")
            names = MediaOptions.OF_PARTS.get(kind, ())
            check_names(part, ("type", kind, *names), f"key of a part of type {kind!r}")
            if kind == "text" and not isinstance(part["text"], str):
                raise PromptError(f"message {number}: a text part holds {part['text']!r:.200}, which is no text")
            own = {name: part[name] for name in names if part.get(name) is not None}
            MediaOptions(**own)
            return {"type": kind, kind: known_medium(part[kind], kind), **own}
    raise PromptError(
        f"message {number}: a part must be a text, {PARTS['text']}, {PARTS['image']} or {PARTS['video']}, but is "
        f"{given!r:.200}"
    )


def check_role(message: Mapping[str, Any], number: int) -> None:
    """Refuse a role that is not in `ROLES`: templates write roles as they are, so special tokens could forge a turn.

    Raises:
        PromptError: the role is unknown; the error names the message by `number`.
    """
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"message {number} has the role {role!r:.80}; expected one of {', '.join(ROLES)}")


def check_characters(text: str) -> None:
    """Refuse a text that cannot be encoded in UTF-8.

    Raises:
        PromptError: the text holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 10) : error.start + 10]
        raise PromptError(
            f"a text holds half a character (a lone surrogate, or bytes that are not UTF-8): {around!r}; remove it"
        ) from error


def texts_of(messages: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The texts of checked messages."""
    for message in messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
        yield from strings_of(message.get("tool_calls"))


def media_of(messages: Sequence[Message]) -> tuple[list[Any], list[Any]]:
    """Images and videos of checked messages, in order; a medium with options of its own is a `Medium`."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    images = [_medium(part) for part in parts if part["type"] == "image"]
    return images, [_medium(part) for part in parts if part["type"] == "video"]


def _medium(part: dict[str, Any]) -> Any:
    own = {name: part[name] for name in MediaOptions.OF_PARTS[part["type"]] if name in part}
    return Medium(part[part["type"]], MediaOptions(**own)) if own else part[part["type"]]


# --- for a chat template -----------------------------------------------------------------------------------------


def template_turns(messages: Sequence[Message], special: Sequence[str]) -> list[Message]:
    """Checked messages for a chat template: texts without special tokens, one part for each placeholder.

    Args:
        special: special tokens and placeholders, which are removed from all texts.

    Raises:
        PromptError: a role is unknown.
    """
    turns = []
    for number, message in enumerate(messages, 1):
        check_role(message, number)
        content: Any = message["content"]
        if isinstance(content, str):
            content = without_special(content, special)
        else:
            content = [own for part in _joined(content) for own in _template_parts(part, special)]
        others = {name: value for name, value in message.items() if name != "content"}
        turns.append({**cleaned(others, special), "content": content})
    return turns


def without_special(text: str, special: Sequence[str]) -> str:
    """Remove special tokens and placeholders, so that a text cannot forge a turn, a medium or a timestamp.

    In one pass: a token is removed at its last character, also if earlier removals have joined its halves.
    """
    by_end: dict[str, list[str]] = {}
    for token in special:
        by_end.setdefault(token[-1], []).append(token)
    kept: list[str] = []
    for character in text:
        kept.append(character)
        for token in by_end.get(character, ()):
            if len(kept) >= len(token) and "".join(kept[-len(token) :]) == token:
                del kept[-len(token) :]
                break
    return "".join(kept)


def cleaned(value: Any, special: Sequence[str]) -> Any:
    """Remove special tokens from all texts within a value, keys included."""
    if isinstance(value, str):
        return without_special(value, special)
    if isinstance(value, Mapping):
        return {cleaned(name, special): cleaned(one, special) for name, one in value.items()}
    return [cleaned(one, special) for one in value] if isinstance(value, list | tuple) else value


def _joined(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge adjacent texts before special tokens are removed: two halves could form a token."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _template_parts(part: dict[str, Any], special: Sequence[str]) -> list[dict[str, Any]]:
    if part["type"] == "text":
        return [{"type": "text", "text": without_special(part["text"], special)}]
    return [{"type": part["type"]}] * (num_units(part["video"]) if part["type"] == "video" else 1)
