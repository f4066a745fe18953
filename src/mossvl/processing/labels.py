"""Labels for training: which tokens of a conversation have loss."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mossvl.errors import OptionError
from mossvl.processing.prompt import PlannedPrompt

IGNORED_LABEL = -100
"""The label of a token or row that has no loss: `ignore_index` of PyTorch's cross entropy."""
ANSWER = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)
Span = tuple[int, int]
"""Characters [start, end) of a prompt, before its placeholders are expanded."""


def answer_spans(text: str) -> list[Span]:
    """Character spans [start, end) of the answers in a rendered conversation, each with its closing `<|im_end|>`.

    Rendering has removed special tokens from the messages' texts, so only real turns match.
    """
    return [answer.span(1) for answer in ANSWER.finditer(text)]


def prompt_labels(planned: PlannedPrompt, spans: Sequence[Span], excluded: dict[str, int]) -> Tensor:
    """(tokens,) int64: the tokens inside these spans of the prompt, else -100.

    Args:
        excluded: see `labels_from_spans`.

    Raises:
        OptionError: a span is empty, or not within the prompt.
    """
    length = len(planned.text)
    for start, end in spans:
        if not 0 <= start < end <= length:
            raise OptionError(f"labels_spans: [{start}, {end}) is not a span of a prompt of {length} characters")
    moved = [(planned.expanded.position(start), planned.expanded.position(end)) for start, end in spans]
    return labels_from_spans(planned.input_ids, planned.offsets, moved, excluded)


def labels_from_spans(
    input_ids: Tensor, offsets: Sequence[tuple[int, int]], spans: Iterable[tuple[int, int]], excluded: dict[str, int]
) -> Tensor:
    """Labels: the tokens inside the spans, except image tokens and whole videos with their timestamps.

    Args:
        input_ids: (tokens,) int64.
        offsets: each token's characters [start, end) in the expanded text.
        spans: character spans [start, end) with loss, in the expanded text.
        excluded: token ids: "image" of the image token, "start" and "end" of the tokens around a video.

    Returns:
        (tokens,) int64, -100 for tokens without loss.
    """
    starts, ends = torch.tensor(offsets, dtype=torch.long).view(-1, 2).unbind(1)
    inside = torch.zeros(len(input_ids), dtype=torch.bool)
    for start, end in spans:
        inside |= (starts >= start) & (ends <= end) & (ends > starts)
    opened, closed = (input_ids == excluded["start"]).cumsum(0), (input_ids == excluded["end"]).cumsum(0)
    in_video = (opened > closed) | (input_ids == excluded["end"])
    with_loss = inside & ~in_video & (input_ids != excluded["image"])
    return torch.where(with_loss, input_ids, torch.full_like(input_ids, IGNORED_LABEL))


def batch_labels(
    planned: Sequence[PlannedPrompt],
    spans: Sequence[Span] | Sequence[Sequence[Span]],
    attention_mask: Tensor,
    excluded: dict[str, int],
) -> Tensor:
    """(batch, text) int64: `prompt_labels` of each prompt, and -100 for padding.

    Args:
        spans: a list of spans for each prompt; or one list, for one prompt.
        attention_mask: (batch, text), 0 for padding.

    Raises:
        OptionError: the number of lists is not the number of prompts, or a span is not within its prompt.
    """
    listed: Any = spans
    if len(planned) == 1 and all(len(span) == 2 and isinstance(span[0], int) for span in listed):
        listed = [listed]
    if len(listed) != len(planned):
        raise OptionError(f"labels_spans has {len(listed)} lists of spans for {len(planned)} prompts")
    labels = torch.full_like(attention_mask, IGNORED_LABEL)
    for row, (one, own) in enumerate(zip(planned, listed, strict=True)):
        labels[row, attention_mask[row].bool()] = prompt_labels(one, own, excluded)
    return labels
