"""The prompt: messages to text, text to tokens, and which of them are to be learned."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mossvl.errors import PromptError
from mossvl.options import MediaOptions
from mossvl.options.checks import check_names, present
from mossvl.processing.parts import known_medium, known_part
from mossvl.processing.plan import Medium, MediumPlan

IMAGE = "<|image|>"
VIDEO = "<|video|>"
IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TIME_START, TIME_END = "<|time_start|>", "<|time_end|>"
PLACEHOLDER = re.compile(f"({re.escape(IMAGE)}|{re.escape(VIDEO)})")
IGNORED_LABEL = -100
PARTS = {kind: f'{{"type": "{kind}", "{kind}": …}}' for kind in ("text", "image", "video")}
"""How parts of messages are written."""
ROLES = ("system", "user", "assistant")
"""Whose a message may be."""
ANSWER = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)


def video_text(timestamps: Iterable[float]) -> str:
    """What a video becomes in the prompt: the absolute time of each frame, and the frame's token."""
    frames = (f"{TIME_START}{time:.1f} seconds{TIME_END}{IMAGE_TOKEN}" for time in timestamps)
    return f"{VISION_START}{''.join(frames)}{VISION_END}"


def without_special(text: str, special: Sequence[str]) -> str:
    """Text in which no special token and no placeholder is left, so that it cannot claim a turn, a medium or a time.

    One pass: a token is removed as soon as its last character is there, also where a removal has joined its parts.
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


@dataclass(frozen=True)
class ExpandedPrompt:
    """A prompt with its media written out."""

    text: str
    starts: list[int]
    """Where, in the original text, the pieces between placeholders start; and where they do in `text`."""
    new_starts: list[int]

    @classmethod
    def expand(cls, text: str, media: Sequence[str]) -> "ExpandedPrompt":
        """Replace each placeholder by the text of its medium; kinds must have been checked."""
        pieces, starts, new_starts = [], [0], [0]
        position = new_position = 0
        replacements = iter(media)
        for piece in PLACEHOLDER.split(text):
            placeholder = piece in (IMAGE, VIDEO)
            written = next(replacements) if placeholder else piece
            position, new_position = position + len(piece), new_position + len(written)
            pieces.append(written)
            if placeholder:
                starts.append(position)
                new_starts.append(new_position)
        return cls("".join(pieces), starts, new_starts)

    def position(self, original: int) -> int:
        """Where a character of the original text is now."""
        piece = bisect_right(self.starts, original) - 1
        return self.new_starts[piece] + original - self.starts[piece]


@dataclass(frozen=True)
class PlannedPrompt:
    """One prompt, ready but for its pixels."""

    text: str
    """The prompt as rendered, with a placeholder for each medium."""
    expanded: ExpandedPrompt
    input_ids: Tensor
    """(tokens,) int64."""
    offsets: list[tuple[int, int]]
    """Each token's characters in the expanded text."""
    plans: list[MediumPlan]
    """Media in prompt order."""
    grid_thw: Tensor
    """(media, 3): frames, patch rows, patch columns."""


def check_placeholders(text: str, images: int, videos: int) -> list[str]:
    """The placeholders of a prompt in order.

    Raises:
        PromptError: their numbers are not those of the media; both are named.
    """
    found = PLACEHOLDER.findall(text)
    for placeholder, what, given in ((IMAGE, "images", images), (VIDEO, "videos or video segments", videos)):
        if found.count(placeholder) != given:
            raise PromptError(
                f"the prompt has {found.count(placeholder)} {placeholder} placeholders, but {given} {what} were given; "
                "each needs exactly one placeholder"
            )
    return found


def labels_from_spans(
    input_ids: Tensor, offsets: Sequence[tuple[int, int]], spans: Iterable[tuple[int, int]], never: dict[str, int]
) -> Tensor:
    """Targets for training: tokens that lie inside the spans, media and their timestamps excepted.

    Args:
        input_ids: (tokens,).
        offsets: each token's characters [start, end) in the expanded text.
        spans: character spans [start, end) to learn, in the expanded text.
        never: ids of the tokens "image", "start" and "end", that is the image token and the bounds of a video.
    """
    starts, ends = torch.tensor(offsets, dtype=torch.long).view(-1, 2).unbind(1)
    inside = torch.zeros(len(input_ids), dtype=torch.bool)
    for start, end in spans:
        inside |= (starts >= start) & (ends <= end) & (ends > starts)
    opened, closed = (input_ids == never["start"]).cumsum(0), (input_ids == never["end"]).cumsum(0)
    in_video = (opened > closed) | (input_ids == never["end"])
    learned = inside & ~in_video & (input_ids != never["image"])
    return torch.where(learned, input_ids, torch.full_like(input_ids, IGNORED_LABEL))


def answer_spans(text: str) -> list[tuple[int, int]]:
    """Character spans [start, end) of the answers in a rendered conversation, each with its closing `<|im_end|>`.

    Rendering has removed special tokens from what people and models wrote, so that only turns begin and end with them.
    """
    return [answer.span(1) for answer in ANSWER.finditer(text)]


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages whose content is a text, or a list of parts: {"type": "text" | "image" | "video", that name: …}.

    A medium's part may have options of its own beside that, such as `max_frames` (see `MediaOptions.OF_PARTS`). Other
    spellings of parts are read, too (see `known_part`).

    Raises:
        OptionError: a part has an option that is unknown or out of range.
        PromptError: something is not a message, its role is none of `ROLES`, or a part has no known type.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise PromptError(f"messages={messages!r} must be a list of messages, and not empty")
    checked = []
    for number, message in enumerate(messages, 1):
        given = present(message) if isinstance(message, dict) else {}
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


def check_role(message: Mapping[str, Any], number: int) -> None:
    """Refuse a role that is none: templates write it as it is, so that one with special tokens would be more turns."""
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"message {number} has the role {role!r:.80}; expected one of {', '.join(ROLES)}")


def check_characters(text: str) -> None:
    """Refuse what no tokenizer can read.

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


def media_of(messages: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Images and videos of checked messages, in order; as `Medium` where they have options of their own."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    images = [_medium(part) for part in parts if part["type"] == "image"]
    return images, [_medium(part) for part in parts if part["type"] == "video"]


def _medium(part: dict[str, Any]) -> Any:
    own = {name: part[name] for name in MediaOptions.OF_PARTS[part["type"]] if name in part}
    return Medium(part[part["type"]], MediaOptions(**own)) if own else part[part["type"]]
