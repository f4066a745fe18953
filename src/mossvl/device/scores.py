"""Log-probabilities of tokens that are known: those of prompts."""

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """Log-probabilities of n known tokens, and of the k likeliest tokens at the same positions.

    Attributes:
        logprobs: (n,) float32.
        ranks: (n,) int64, 1 for the token that greedy decoding would take.
        best, ids: (n, k) float32 and int64, best first.
    """

    logprobs: Tensor
    ranks: Tensor
    best: Tensor
    ids: Tensor


def scores_of(logits: Tensor, targets: Tensor, most: int) -> Scores:
    """Logits (n, vocab) and the tokens that follow, (n,) int64 → scores, with the `most` likeliest tokens."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(1, targets[:, None])
    tied_before = (logprobs == own) & (torch.arange(logprobs.shape[1], device=logprobs.device) < targets[:, None])
    ranks = 1 + ((logprobs > own) | tied_before).sum(-1)
    best, ids = logprobs.topk(min(most, logprobs.shape[1]), dim=-1)
    return Scores(own[:, 0], ranks, best, ids)
