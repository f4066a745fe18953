"""`apply_chat_template` of transformers' processors: conversations with media in them, in one call to model inputs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature

from mossvl.errors import OptionError, PromptError
from mossvl.processing.prompt import answer_spans, check_messages, media_of

if TYPE_CHECKING:
    from mossvl.processing.processor import MossVLProcessor

Conversation = list[dict[str, Any]]


class _Later:
    """Stands for a medium that its part does not name: it is given beside the conversation."""


LATER = _Later()


def conversations_of(given: Any) -> tuple[list[Conversation], bool]:
    """Conversations as given, one or a batch → a list of them, checked; and whether they were a batch.

    Raises:
        PromptError: something is no conversation.
    """
    first = given[0] if isinstance(given, list | tuple) and given else None
    batch = isinstance(first, list | tuple) or hasattr(first, "messages")
    listed = given if batch else [given]
    return [check_messages(_with_places(getattr(one, "messages", one))) for one in listed], batch


def _with_places(messages: Any) -> Any:
    """Messages in which {"type": "image"} or {"type": "video"} alone stand for media given elsewhere."""
    if not isinstance(messages, list | tuple):
        return messages

    def placed(part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        alone = kind in ("image", "video") and all(part[name] is None for name in part if name != "type")
        return {"type": kind, kind: LATER} if alone else part

    return [
        {**message, "content": [placed(part) for part in message["content"]]}
        if isinstance(message, dict) and isinstance(message.get("content"), list | tuple)
        else message
        for message in messages
    ]


def prompt_of(
    processor: "MossVLProcessor", messages: Conversation, answer_follows: bool, goes_on: bool, **render: Any
) -> str:
    """A conversation as its template writes it; with `goes_on`, open after the last message's text.

    Raises:
        OptionError: an answer cannot both begin and go on.
        PromptError: the last message has no text that could go on.
    """
    if not goes_on:
        return processor.render(messages, answer_follows, **render)
    if answer_follows:
        raise OptionError("continue_final_message and add_generation_prompt exclude each other; give one of them")
    content = messages[-1]["content"]
    last = content if isinstance(content, str) else (content[-1].get("text") if content else None)
    if not isinstance(last, str) or not last.strip():
        raise PromptError("continue_final_message: the last message ends with no text that could go on")
    whole = processor.render(messages, False, **render)
    written = processor.harmless(last).rstrip()
    return whole[: whole.rindex(written) + len(written)]


def media_for(
    conversations: Sequence[Conversation], images: Any, videos: Any
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Images and videos of each conversation; places in it are filled from those given beside it, in order.

    Raises:
        PromptError: there are more places than media, or fewer.
    """
    found = [media_of(messages) for messages in conversations]
    filled = []
    for number, (what, given) in enumerate((("images", images), ("videos", videos))):
        beside = list(_each(given))
        places = sum(one is LATER for media in found for one in media[number])
        if places != len(beside):
            raise PromptError(f"{places} parts of the messages name no source, but {len(beside)} {what} are given")
        rest = iter(beside)
        filled.append([[next(rest) if one is LATER else one for one in media[number]] for media in found])
    return filled[0], filled[1]


def _each(given: Any) -> Iterator[Any]:
    """Media given beside conversations, one by one; they may be nested by conversation."""
    for one in given if isinstance(given, list | tuple) else [] if given is None else [given]:
        if isinstance(one, list | tuple):
            yield from one
        else:
            yield one


def assistant_masks(processor: "MossVLProcessor", texts: Sequence[str], call: dict[str, Any]) -> BatchFeature:
    """Model inputs, with 1 in `assistant_masks` (batch, text) for what assistants said, the token that ends it
    included."""
    out = processor(texts, **call, labels_spans=[answer_spans(text) for text in texts])
    out["assistant_masks"] = (out.pop("labels") != -100).long()
    return out


def in_form(inputs: BatchFeature, return_tensors: str | None) -> BatchFeature:
    """Model inputs as tensors ("pt"), as arrays ("np") or, for text, as lists without padding (None)."""
    inputs.pop("cross_attention_mask")  # `input_ids` says the same, and what collates batches cannot pad it.
    inputs["media_nums_per_sample"] = torch.tensor(inputs["media_nums_per_sample"])
    if return_tensors == "np":
        return BatchFeature({name: value.numpy() for name, value in inputs.items()})
    if return_tensors is None:
        real = inputs["attention_mask"].bool()
        for name in ("input_ids", "attention_mask", "assistant_masks"):
            if name in inputs:
                inputs[name] = [row[own].tolist() for row, own in zip(inputs[name], real, strict=True)]
    return inputs
