"""The loss of next tokens, some rows at a time.

Of the published vocabulary, logits of a thousand rows are 0.3 GiB in bfloat16; in float32, with what a softmax and its
gradient need, they would be 2 GiB, the most that training holds.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

FLOATS = 2**27
"""Logits that are float32 at a time, half a GiB."""


def next_token_loss(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Cross entropy in float32; the backward pass computes each part's softmax again.

    Args:
        logits: (rows, vocabulary).
        labels: (rows,) int64, -100 where there is nothing to learn.
        count: what the sum over the rows is divided by; how many have a label, if None.
    """
    rows, labels = max(1, FLOATS // logits.shape[-1]), labels.to(logits.device)
    total = torch.zeros((), device=logits.device)
    for part, follow in zip(logits.split(rows), labels.split(rows), strict=True):
        total = total + checkpoint(_summed, part, follow, use_reentrant=False, preserve_rng_state=False)
    count = (labels != -100).sum() if count is None else count
    return total / (count.to(logits.device) if isinstance(count, Tensor) else count)


def _summed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
