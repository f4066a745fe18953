"""Which tokens of a conversation are learned."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mossvl.errors import OptionError
from mossvl.processing.prompt import PlannedPrompt

IGNORED_LABEL = -100
ANSWER = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)
Span = tuple[int, int]
"""Characters [start, end) of a prompt, before its media are written out."""


def answer_spans(text: str) -> list[Span]:
    """Character spans [start, end) of the answers in a rendered conversation, each with its closing `<|im_end|>`.

    Rendering has removed special tokens from what people and models wrote, so that only turns begin and end with them.
    """
    return [answer.span(1) for answer in ANSWER.finditer(text)]


def prompt_labels(planned: PlannedPrompt, spans: Sequence[Span], never: dict[str, int]) -> Tensor:
    """(tokens,) int64: the tokens that lie in these spans of the prompt, else -100.

    Args:
        never: see `labels_from_spans`.

    Raises:
        OptionError: a span is none of the prompt.
    """
    length = len(planned.text)
    for start, end in spans:
        if not 0 <= start < end <= length:
            raise OptionError(f"labels_spans: [{start}, {end}) is not a span of a prompt of {length} characters")
    moved = [(planned.expanded.position(start), planned.expanded.position(end)) for start, end in spans]
    return labels_from_spans(planned.input_ids, planned.offsets, moved, never)


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


def batch_labels(
    planned: Sequence[PlannedPrompt],
    spans: Sequence[Span] | Sequence[Sequence[Span]],
    attention_mask: Tensor,
    never: dict[str, int],
) -> Tensor:
    """(batch, text) int64: `prompt_labels` of each prompt, and -100 for padding.

    Args:
        spans: a list for each prompt; or one list, for one prompt.

    Raises:
        OptionError: there are spans for more or for fewer prompts, or one is none of its prompt.
    """
    listed: Any = spans
    if len(planned) == 1 and all(len(span) == 2 and isinstance(span[0], int) for span in listed):
        listed = [listed]
    if len(listed) != len(planned):
        raise OptionError(f"labels_spans has {len(listed)} lists of spans for {len(planned)} prompts")
    labels = torch.full_like(attention_mask, IGNORED_LABEL)
    for row, (one, own) in enumerate(zip(planned, listed, strict=True)):
        labels[row, attention_mask[row].bool()] = prompt_labels(one, own, never)
    return labels
