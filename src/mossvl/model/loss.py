"""The loss of next tokens, computed some rows of logits at a time.

With the published vocabulary, logits of 1,000 rows take 0.3 GiB in bfloat16; in float32, with the softmax and its
gradient, they would take 2 GiB, more than anything else in training.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mossvl.processing.labels import IGNORED_LABEL

FLOATS = 2**27
"""Maximum number of logits in float32 at a time: half a GiB."""


class Loss(Protocol):
    """A loss that the forward pass computes; by default, `next_token_loss`."""

    def __call__(self, logits: Tensor, labels: Tensor, count: Tensor | int | None = None, /) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (rows, vocabulary) of the columns that are kept, sample after sample.
            labels: (rows,) int64, the token that follows each row, or -100 for no loss.
            count: number of rows with a label in all batches of the training step; None if unknown.
        """
        ...


def next_token_loss(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Cross entropy in float32.

    Args:
        logits: (rows, vocabulary).
        labels: (rows,) int64, -100 for no loss.
        count: divisor of the sum over the rows; None for the number of rows with a label.

    Returns:
        A float32 scalar.
    """
    labels = labels.to(logits.device)
    count = (labels != IGNORED_LABEL).sum() if count is None else count
    return -token_logprobs(logits, labels).sum() / (count.to(logits.device) if isinstance(count, Tensor) else count)


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of tokens, as the engine reports them; the backward pass recomputes the softmax.

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
    return -F.cross_entropy(logits.float(), ids, ignore_index=IGNORED_LABEL, reduction="none")


def followers(labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Shift labels so that each column has the label of the next column, and the last column -100.

    Args:
        labels: (batch, text) int64.
        attention_mask: (batch, text so far), 0 for padding. Padding, on either side, predicts no token.
    """
    if attention_mask is not None:
        before = F.pad(attention_mask[:, -labels.shape[1] :][:, :-1], (1, 0), value=1)
        labels = labels.masked_fill(before == 0, IGNORED_LABEL)
    return F.pad(labels, (0, 1), value=IGNORED_LABEL)[:, 1:]
