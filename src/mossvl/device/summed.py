"""Layers whose parts lie on several ranks: sums of partial products, and of embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mossvl.model.layers import MLP, Attention, RMSNorm, TextBackend
from mossvl.model.xrope import Rope
from mossvl.parallel.ranks import Ranks


class SummedProducts:
    """A `TextBackend` around that of a rank's part: products back into the residual are summed over all ranks.

    `add` and `add_gated` are linear in the product: rank 0 adds its part of the sum to the residual, the others theirs
    to zero, in the kernels that do so on one device.
    """

    def __init__(self, own: TextBackend, ranks: Ranks) -> None:
        self._own, self._ranks, self._first = own, ranks, ranks.share.rank == 0

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: RMSNorm | None = None) -> list[Tensor]:
        return self._own.project(x, linears, norm)

    def swiglu(self, x: Tensor, norm: RMSNorm, mlp: MLP) -> Tensor:
        return self._own.swiglu(x, norm, mlp)

    def add(self, residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
        part = self._own.add(residual, x, linear) if self._first else self._own.project(x, (linear,))[0]
        return self._ranks.sum(part)

    def add_gated(self, residual: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor, sees: Tensor) -> Tensor:
        start = residual if self._first else torch.zeros_like(residual)
        return self._ranks.sum(self._own.add_gated(start, x, linear, gate, sees))

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> Tensor:
        return self._own.self_attention(layer, q, k, v, attn, rope)

    def cross_attention(self, layer: int, q: Tensor, attn: Attention, rope: Rope) -> Tensor:
        return self._own.cross_attention(layer, q, attn, rope)


def embedded(tokens: Tensor, embeddings: nn.Embedding, ranks: Ranks) -> Tensor:
    """The embeddings (rows, hidden) of tokens (rows,) int64, of which each rank has a part of the vocabulary."""
    part = ranks.share.of(embeddings.num_embeddings)
    own = (tokens >= part.start) & (tokens < part.stop)
    found = embeddings(torch.where(own, tokens - part.start, 0))
    return ranks.sum(torch.where(own[:, None], found, 0))


def likeliest_of_parts(logits: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The largest logits and their tokens, (rows,) each, of logits (rows, part of the vocabulary); on every rank."""
    best, tokens = logits.max(-1)
    if not len(best):
        return best, tokens
    own = torch.stack((best.double(), (tokens + ranks.share.of(logits.shape[-1]).start).double()))
    best, tokens = ranks.gather_all(own).unbind(1)
    best, rank = best.max(0)
    return best, tokens.gather(0, rank[None])[0].long()
