"""What is learned from next tokens, computed some rows of logits at a time.

Of the published vocabulary, logits of a thousand rows are 0.3 GiB in bfloat16; in float32, with what a softmax and its
gradient need, they would be 2 GiB, the most that training holds.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

FLOATS = 2**27
"""Logits that are float32 at a time, half a GiB."""
UNLEARNED = -100
"""The label of a row from which nothing is learned."""


class Loss(Protocol):
    """What the forward pass makes of logits and labels; see `next_token_loss`, which is the default."""

    def __call__(self, logits: Tensor, labels: Tensor, count: Tensor | int | None = None, /) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (rows, vocabulary) of the columns that are kept, sample after sample.
            labels: (rows,) int64, the token that follows each, -100 where there is nothing to learn.
            count: rows with a label in all batches of the step, which the loss is a part of; None if nobody knows.
        """
        ...


def next_token_loss(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Cross entropy in float32.

    Args:
        logits: (rows, vocabulary).
        labels: (rows,) int64, -100 where there is nothing to learn.
        count: what the sum over the rows is divided by; how many have a label, if None.
    """
    labels = labels.to(logits.device)
    count = (labels != UNLEARNED).sum() if count is None else count
    return -token_logprobs(logits, labels).sum() / (count.to(logits.device) if isinstance(count, Tensor) else count)


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of tokens, as the engine reports them; the backward pass computes each part's softmax again.

    Args:
        logits: (rows, vocabulary).
        ids: (rows,) int64, the token of each row, or -100.

    Returns:
        (rows,) float32, 0 where there is no token.
    """
    rows, ids = max(1, FLOATS // logits.shape[-1]), ids.to(logits.device)
    parts = [
        checkpoint(_logprobs, part, own, use_reentrant=False, preserve_rng_state=False)
        for part, own in zip(logits.split(rows), ids.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    return -F.cross_entropy(logits.float(), ids, ignore_index=UNLEARNED, reduction="none")


def followers(labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The label that each column predicts: its follower's, and none for the last.

    Args:
        labels: (batch, text) int64.
        attention_mask: (batch, text so far), 0 for padding, which predicts no first token, wherever it lies.
    """
    if attention_mask is not None:
        before = F.pad(attention_mask[:, -labels.shape[1] :][:, :-1], (1, 0), value=1)
        labels = labels.masked_fill(before == 0, UNLEARNED)
    return F.pad(labels, (0, 1), value=UNLEARNED)[:, 1:]
