"""The decoder's layers, defined once for every way the model is run.

Text tokens of all samples lie in packed rows, (rows, hidden), without padding. A layer says what is computed; the
backend that is passed in decides how it is computed, how rows of different samples are kept apart, and where keys and
values are stored: `model.packed_backend` has the plain backend, `device` those over pages.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.xrope import Rope


class Products(Protocol):
    """Matrix products of packed rows x, (rows, hidden), with the norm, activation or residual around them.

    With tensor parallelism, the sums over ranks belong in `add` and `add_gated`.
    """

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: "RMSNorm | None" = None) -> list[Tensor]:
        """Each linear of x, or of norm(x): (rows, out features) each."""
        ...

    def swiglu(self, x: Tensor, norm: "RMSNorm", mlp: "MLP") -> Tensor:
        """silu(gate(norm(x))) · up(norm(x)), (rows, intermediate)."""
        ...

    def add(self, residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
        """residual + linear(x)."""
        ...

    def add_gated(self, residual: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor, sees: Tensor) -> Tensor:
        """residual + tanh(gate) · sees · linear(x); gate is (1,), sees (rows, 1)."""
        ...


class TextAttention(Protocol):
    """Attention of packed text rows: q is (rows, heads, d), k and v (rows, kv heads, d).

    q, k and v are projections: the backend normalises (`q_norm`, `k_norm`) and rotates queries and keys.
    """

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: "Attention", rope: Rope) -> Tensor:
        """Each text row attends to the rows of its own sample up to itself, earlier calls' rows included.

        Returns (rows, heads · d).
        """
        ...

    def cross_attention(self, layer: int, q: Tensor, attn: "Attention", rope: Rope) -> Tensor:
        """Each text row attends to the visible prefix of its sample's vision tokens.

        Returns (rows, heads · d), zeros in rows that see no vision tokens.
        """
        ...


class VisionStore(Protocol):
    """Storage of the keys and values of vision tokens: k and v are projections, (vision rows, kv heads, d)."""

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: "Attention", rope: Rope) -> None:
        """Normalise and rotate the keys of new vision tokens, and store keys and values."""
        ...


class TextBackend(Products, TextAttention, Protocol):
    """A backend for text rows."""


class VisionBackend(Products, VisionStore, Protocol):
    """A backend for new vision tokens."""


class Backend(TextBackend, VisionBackend, Protocol):
    """A backend for text rows and new vision tokens."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight (arXiv:1910.07467), computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    """The parts of SwiGLU (arXiv:2002.05202); the backend computes it."""

    def __init__(self, config: MossVLTextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]


class Attention(nn.Module):
    """The parts of grouped-query attention with normalised and rotated queries and keys; the backend computes it."""

    def __init__(self, config: MossVLTextConfig) -> None:
        super().__init__()
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def heads(self, x: Tensor) -> Tensor:
        """(rows, heads · d) → (rows, heads, d)."""
        return x.unflatten(-1, (-1, self.head_dim))


class SelfAttentionLayer(GradientCheckpointingLayer):
    """A decoder layer whose text rows attend to each other."""

    def __init__(self, config: MossVLTextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: Rope, backend: TextBackend) -> Tensor:
        attn = self.self_attn
        q, k, v = map(attn.heads, backend.project(x, (attn.q_proj, attn.k_proj, attn.v_proj), self.input_layernorm))
        attended = backend.self_attention(self.index, q, k, v, attn, rope)
        x = backend.add(x, attended, attn.o_proj)
        return backend.add(x, backend.swiglu(x, self.post_attention_layernorm, self.mlp), self.mlp.down_proj)


class CrossAttentionLayer(GradientCheckpointingLayer):
    """A decoder layer whose text rows attend to vision tokens; its two tanh gates start closed, at 0."""

    def __init__(self, config: MossVLTextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.cross_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn_attn_gate = nn.Parameter(torch.zeros(1))
        self.cross_attn_mlp_gate = nn.Parameter(torch.zeros(1))

    def store_vision(self, vision: Tensor, rope: Rope, backend: VisionBackend) -> None:
        """Compute and store keys and values of vision tokens (vision rows, hidden); `rope` holds their angles."""
        attn = self.cross_attn
        k, v = map(attn.heads, backend.project(vision, (attn.k_proj, attn.v_proj)))
        backend.store_vision(self.index, k, v, attn, rope)

    def forward(
        self,
        x: Tensor,
        rope: Rope,
        backend: TextBackend,
        sees: Tensor,
        vision: Tensor | None = None,
        vision_rope: Rope | None = None,
        store: VisionBackend | None = None,
    ) -> Tensor:
        """`sees` (rows, 1) is 1 for rows that see a frame and 0 for the others, which pass unchanged.

        `vision` (vision rows, hidden) are new vision tokens, with angles `vision_rope`; first, `store` stores their
        keys and values.
        """
        if vision is not None and vision_rope is not None and store is not None:
            self.store_vision(vision, vision_rope, store)
        attn = self.cross_attn
        (q,) = map(attn.heads, backend.project(x, (attn.q_proj,), self.input_layernorm))
        attended = backend.cross_attention(self.index, q, attn, rope)
        x = backend.add_gated(x, attended, attn.o_proj, self.cross_attn_attn_gate, sees)
        hidden = backend.swiglu(x, self.post_attention_layernorm, self.mlp)
        return backend.add_gated(x, hidden, self.mlp.down_proj, self.cross_attn_mlp_gate, sees)


class PlainProducts:
    """`Products` that call the modules, which an adapter may have replaced."""

    def linears(self, x: Tensor, linears: Sequence[nn.Module]) -> list[Tensor]:
        """Each linear of x: (rows, out features) each."""
        return [linear(x) for linear in linears]

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: RMSNorm | None = None) -> list[Tensor]:
        return self.linears(x if norm is None else norm(x), linears)

    def swiglu(self, x: Tensor, norm: RMSNorm, mlp: MLP) -> Tensor:
        gate, up = self.linears(norm(x), (mlp.gate_proj, mlp.up_proj))
        return mlp.act_fn(gate) * up

    def add(self, residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
        return residual + self.linears(x, (linear,))[0]

    def add_gated(self, residual: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor, sees: Tensor) -> Tensor:
        return residual + gate.tanh() * sees * self.linears(x, (linear,))[0]
