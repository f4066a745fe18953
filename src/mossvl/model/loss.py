"""The loss of next tokens, some rows at a time.

Logits of all rows, and what their softmax keeps, would be the most that training holds: 2 GiB for a thousand tokens of
the published vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGITS = 2**27
"""As many at a time, half a GiB in float32."""


def next_token_loss(
    states: Tensor, head: nn.Module, labels: Tensor, vocabulary: int, count: Tensor | int | None = None
) -> Tensor:
    """Cross entropy of `head(states)`, in float32; no logits are kept, the backward pass computes them again.

    Args:
        states: (rows, hidden).
        labels: (rows,) int64, -100 where there is nothing to learn.
        vocabulary: logits of a row.
        count: what the sum over the rows is divided by; how many have a label, if None.
    """
    rows = max(1, LOGITS // vocabulary)
    total = states.new_zeros((), dtype=torch.float32)
    for part, follow in zip(states.split(rows), labels.split(rows), strict=True):
        total = total + checkpoint(_summed, part, head, follow, use_reentrant=False, preserve_rng_state=False)
    return total / (count if count is not None else (labels != -100).sum())


def _summed(states: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    return F.cross_entropy(head(states).float(), labels, ignore_index=-100, reduction="sum")
