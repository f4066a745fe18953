"""Media that are given beside a conversation, for parts that name none."""

from collections.abc import Iterator, Sequence
from typing import Any

from mossvl.errors import PromptError
from mossvl.processing.messages import Message, media_of


class _Unnamed:
    """The source of a part that names none: the medium is given beside the conversation."""


UNNAMED = _Unnamed()


def mark_unnamed(messages: Any) -> Any:
    """Give each part {"type": "image"} or {"type": "video"} without a source the source `UNNAMED`."""
    if not isinstance(messages, list | tuple):
        return messages

    def marked(part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        unnamed = kind in ("image", "video") and all(part[name] is None for name in part if name != "type")
        return {"type": kind, kind: UNNAMED} if unnamed else part

    return [
        {**message, "content": [marked(part) for part in message["content"]]}
        if isinstance(message, dict) and isinstance(message.get("content"), list | tuple)
        else message
        for message in messages
    ]


def media_for(
    conversations: Sequence[list[Message]], images: Any, videos: Any
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Images and videos of each conversation; parts without a source take those given beside it, in order.

    Raises:
        PromptError: the number of parts without a source is not the number of media given.
    """
    found = [media_of(messages) for messages in conversations]
    filled = []
    for number, (what, given) in enumerate((("images", images), ("videos", videos))):
        beside = list(_each(given))
        unnamed = sum(one is UNNAMED for media in found for one in media[number])
        if unnamed != len(beside):
            raise PromptError(f"{unnamed} parts of the messages name no source, but {len(beside)} {what} are given")
        rest = iter(beside)
        filled.append([[next(rest) if one is UNNAMED else one for one in media[number]] for media in found])
    return filled[0], filled[1]


def _each(given: Any) -> Iterator[Any]:
    """Media given beside conversations, one by one, flattened if nested by conversation."""
    for one in given if isinstance(given, list | tuple) else [] if given is None else [given]:
        if isinstance(one, list | tuple):
            yield from one
        else:
            yield one
