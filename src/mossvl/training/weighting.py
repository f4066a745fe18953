"""Weights of state tokens in the loss: few frames are worth speaking at, and most decisions are easy.

A state token k has the weight α_k (1 − p)^γ, where p is its predicted probability, and α_k = (n_s + n_r) / (2 n_k) for
n_s silences and n_r responses. Text has the weight 1. The loss is the weighted mean over a step: all batches of all
processes. Weights are constants: no gradient flows through them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mossvl.model.loss import Loss, token_logprobs
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.processing.stream import StateTokens
from mossvl.training.batches import Batch

LEAST = 1e-12
"""Bound of the sum of weights, from below: a model may be sure of all decisions."""
Sum = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class StateWeighting:
    """The weighted loss of each batch.

    The sum of a step's weights is known after its last forward pass, when gradients of earlier batches are already
    accumulated. So losses are divided by an estimate of the sum (that for p = 0), and corrected by the factor that
    `end` returns. Between steps, as in evaluations, a batch is a step of its own.

    Args:
        tokens: ids of the state tokens.
        gamma: γ; 0 for α alone.
    """

    def __init__(self, tokens: StateTokens, gamma: float) -> None:
        self.tokens, self.gamma = tokens, gamma
        self._step: tuple[Tensor, Tensor] | None = None
        self._weights: Tensor | None = None

    def begin(self, batches: Sequence[Batch], device: torch.device, processes: int, total: Sum) -> Tensor:
        """Begin a step of these batches of this process; return whether any process has state tokens, a bool scalar."""
        own = torch.stack([state_counts(batch["labels"][..., 1:], self.tokens) for batch in batches]).sum(0)
        counts = total(own.to(device))
        self._step = alphas_of(counts)
        # Several processes do not wait for the counts of each other: if there are no state tokens, the factor is 1.
        corrected = self.gamma > 0 and (processes > 1 or bool(own[:2].any()))
        self._weights = torch.zeros((), device=device) if corrected else None
        return counts[:2].any()

    def end(self, total: Sum) -> Tensor | None:
        """End a step; return the factor by which its loss and gradients are to be multiplied, None for 1."""
        assert self._step is not None
        (_, estimate), weights = self._step, self._weights
        self._step = self._weights = None
        return None if weights is None else estimate / total(weights).clamp(min=LEAST)

    def __call__(self, batch: Batch) -> Loss:
        return self._loss

    def _loss(self, logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
        labels = labels.to(logits.device)
        logprobs = token_logprobs(logits, labels)
        alphas, estimate = self._step or alphas_of(state_counts(labels, self.tokens))
        weights = self._weighed(labels, logprobs.detach(), alphas.to(logits.device))
        if self._step is None:
            return -(weights * logprobs).sum() / weights.sum().clamp(min=LEAST)
        if self._weights is not None:
            self._weights += weights.sum()
        return -(weights * logprobs).sum() / estimate.to(logits.device)

    def _weighed(self, labels: Tensor, logprobs: Tensor, alphas: Tensor) -> Tensor:
        weights = (labels != IGNORED_LABEL).float()
        for token, alpha in zip((self.tokens.silence, self.tokens.response), alphas, strict=True):
            focal = alpha * (-logprobs.expm1()) ** self.gamma
            weights = weights.where(labels != token, focal)
        return weights


def state_counts(labels: Tensor, tokens: StateTokens) -> Tensor:
    """(3,) int64: labels that are silences, that are responses, and all tokens with loss."""
    masks = labels == tokens.silence, labels == tokens.response, labels != IGNORED_LABEL
    return torch.stack([mask.sum() for mask in masks])


def alphas_of(counts: Tensor) -> tuple[Tensor, Tensor]:
    """(2,) float32, α of silences and of responses; and the sum of the weights of all tokens, if each p is 0."""
    states, learned = counts[:2].float(), counts[2].float()
    alphas = states.sum() / (2 * states.clamp(min=1))
    return alphas, learned - states.sum() + (alphas * states).sum()
