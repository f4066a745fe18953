"""Draws tokens from logits, for all rows of a step at once, each with its request's sampling parameters."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mossvl.device.biases import Biases
from mossvl.device.inputs import to_device
from mossvl.device.penalties import LARGEST, Penalties
from mossvl.scheduling.request import Request

NOT_A_NUMBER = -1
"""Drawn in place of a token where the largest logit is not finite."""
MOST_CANDIDATES = 1024
"""With a larger `top_k`, all tokens are sorted."""


class DrawnLogprobs(NamedTuple):
    """Log-probabilities of n drawn tokens, and of the k likeliest tokens at the same positions.

    Attributes:
        own: (n,) float32, of the drawn tokens.
        best, ids: (n, k) float32 and int64, best first.
    """

    own: Tensor
    best: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Drawn:
    """The draws from n rows.

    Attributes:
        tokens: (n,) int64; `NOT_A_NUMBER` where the largest logit is not finite.
        logprobs: None if no request asks for them.
    """

    tokens: Tensor
    logprobs: DrawnLogprobs | None = None


class Sampler:
    """Draws tokens. Chance depends on a request's seed and the number of the token, not on the rest of the batch.

    Args:
        slots: number of batch slots, without that of padding rows.
    """

    def __init__(self, vocab_size: int, slots: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.penalties = Penalties(vocab_size, slots, device)
        self._parameters: tuple[tuple[int, ...], dict[str, Tensor]] | None = None
        self._biases = Biases(lambda request: request.params.logit_bias or {})
        self._ends = Biases(
            lambda request: dict.fromkeys((one for one in request.stops if one < vocab_size), -torch.inf)
        )

    def draw(self, logits: Tensor, requests: Sequence[Request[object]]) -> Drawn:
        """Draw a token from each row of logits (n, vocab), for n requests."""
        tokens = likeliest(logits)
        edited: Tensor | None = None
        if biased := {row: one for row, one in enumerate(requests) if one.params.logit_bias}:
            edited = self._biases.add(logits.float(), biased)
        penalised = any(request.params.penalises for request in requests)
        if penalised:
            edited = self.penalties.apply(logits.float() if edited is None else edited, requests)
        masks = {row: one.matcher.mask for row, one in enumerate(requests) if one.matcher is not None}
        if masks:
            edited = logits.float() if edited is None else edited
            forbidden = to_device(~allowed_tokens(list(masks.values()), self.vocab_size), logits.device)
            rows = to_device(torch.tensor(list(masks)), logits.device)
            edited = edited.index_put((rows,), edited[rows].masked_fill(forbidden, -torch.inf))
        if early := {row: one for row, one in enumerate(requests) if is_early(one)}:
            edited = self._endless(logits.float() if edited is None else edited, early)
        if edited is not None:
            tokens = torch.where(tokens == NOT_A_NUMBER, tokens, edited.argmax(-1))
        random = [row for row, request in enumerate(requests) if not request.params.greedy]
        if random:
            index = to_device(torch.tensor(random), logits.device)
            chosen = self._random((logits if edited is None else edited)[index].float(), [requests[i] for i in random])
            tokens[index] = torch.where(tokens[index] == NOT_A_NUMBER, tokens[index], chosen)
        if penalised:
            self.penalties.count(tokens, requests)
        return Drawn(tokens, self._logprobs(logits, tokens, requests))

    def forget(self, request: Request[object]) -> None:
        """Recount a request's tokens at its next draw with penalties."""
        self.penalties.forget(request)

    def _endless(self, logits: Tensor, early: dict[int, Request[object]]) -> Tensor:
        """Logits in which these rows have no end token, unless a form leaves them nothing else."""
        left = self._ends.add(logits, early)
        return torch.where(left.isneginf().all(-1, keepdim=True), logits, left)

    # --- random draws --------------------------------------------------------------------------------------------

    def _random(self, logits: Tensor, requests: Sequence[Request[object]]) -> Tensor:
        columns = self._columns(requests)
        logits = logits / columns["temperature"]
        candidates = max(self._top_k(request) for request in requests)
        if candidates > MOST_CANDIDATES:
            values, ids = logits.sort(dim=-1, descending=True)
        else:
            values, ids = logits.topk(candidates, dim=-1)
        ranks = torch.arange(values.shape[1], device=values.device)
        values = values.masked_fill(ranks >= columns["top_k"], -torch.inf)
        probs = values.softmax(-1)
        before = probs.cumsum(-1) - probs
        dropped = (before >= columns["top_p"]) | (probs < columns["min_p"] * probs[:, :1])
        dropped[:, 0] = False
        values = values.masked_fill(dropped, -torch.inf)
        numbers = to_device(torch.tensor([one.num_drawn for one in requests]), ids.device)[:, None]
        noise = -torch.log(-torch.log(uniform(columns["seed"], numbers, ids)))
        return ids.gather(1, (values.double() + noise).argmax(-1, keepdim=True))[:, 0]

    def _columns(self, requests: Sequence[Request[object]]) -> dict[str, Tensor]:
        """Sampling parameters as columns (n, 1) on the device; cached while the same requests draw."""
        numbers = tuple(request.number for request in requests)
        if self._parameters is None or self._parameters[0] != numbers:
            columns = {
                "temperature": [min(request.params.temperature, LARGEST) for request in requests],
                "top_k": [self._top_k(request) for request in requests],
                "top_p": [request.params.top_p for request in requests],
                "min_p": [request.params.min_p for request in requests],
                "seed": [request.seed for request in requests],
            }
            columns_ = {name: to_device(torch.tensor(column), self.device)[:, None] for name, column in columns.items()}
            self._parameters = numbers, columns_
        return self._parameters[1]

    def _top_k(self, request: Request[object]) -> int:
        return min(request.params.top_k or self.vocab_size, self.vocab_size)

    def _logprobs(self, logits: Tensor, tokens: Tensor, requests: Sequence[Request[object]]) -> DrawnLogprobs | None:
        """`Drawn.logprobs`: of the model's logits, before penalties, masks and temperature."""
        wanted = [request.params.logprobs for request in requests if request.params.logprobs is not None]
        if not wanted:
            return None
        logprobs = logits.float().log_softmax(-1)
        best, ids = logprobs.topk(max(*wanted, 1), dim=-1)
        return DrawnLogprobs(logprobs.gather(1, tokens.clamp(min=0)[:, None])[:, 0], best, ids)


def is_early(request: Request[object]) -> bool:
    """Return whether the request's answer may not end with its next token."""
    return request.num_drawn < request.params.min_tokens


def allowed_tokens(masks: Collection[bytes], vocab_size: int) -> Tensor:
    """bool (masks, vocab_size): the allowed next tokens of masks with one bit a token, lowest bit first."""
    packed = torch.stack([torch.frombuffer(bytearray(mask), dtype=torch.uint8) for mask in masks])
    bits = packed[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1)[:, :vocab_size].bool()


def likeliest(logits: Tensor) -> Tensor:
    """Argmax of logits (n, vocab) → (n,) int64; `NOT_A_NUMBER` in rows with a NaN or an infinite largest logit."""
    return told_apart(*logits.max(-1))


def told_apart(best: Tensor, tokens: Tensor) -> Tensor:
    """Tokens (n,) int64, but `NOT_A_NUMBER` where their logits (n,) are not finite."""
    return torch.where(best.isfinite(), tokens, NOT_A_NUMBER)


def uniform(seed: Tensor, number: Tensor, token: Tensor) -> Tensor:
    """Pseudo-random numbers in (0, 1), float64, that depend on these integers alone; shapes are broadcast.

    An integer hash in counter mode: the numbers are the same on every device, in any order of computation.
    """
    stream = _mixed(_mixed(_mixed(seed & 0xFFFFFFFF) ^ (seed >> 32)) ^ number)
    return (_mixed(_mixed(token) ^ stream).double() + 0.5) / 2**32


def _mixed(x: Tensor) -> Tensor:
    """One step of SplitMix32: a permutation of 32-bit integers that scatters the bits of its input."""
    x = (x + 0x9E3779B9) & 0xFFFFFFFF  # Zero would stay zero.
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 15)
