"""The decoder's layers, defined once for every way the model is run.

Text tokens of all samples lie in packed rows, (rows, hidden), without padding. A layer says what is computed from what;
how it is computed, how rows of different samples are kept apart, and where keys and values are stored, is decided by
the backend that is passed in: `model.packed_backend` has the plain one, `device` those over pages.
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
    """Products of packed rows x, (rows, hidden), with what surrounds them.

    Where a model is cut over several devices, sums over them belong into `add` and `add_gated`.
    """

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: "RMSNorm | None" = None) -> list[Tensor]:
        """Each linear map of the (normalised) rows."""
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

    They are handed over as projected: the attention normalises (`q_norm`, `k_norm`) and rotates queries and keys.
    """

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attn: "Attention", rope: Rope) -> Tensor:
        """Each text row attends to the rows of its own sample up to itself, earlier calls' rows included.

        Returns (rows, heads · d).
        """
        ...

    def cross_attention(self, layer: int, q: Tensor, attn: "Attention", rope: Rope) -> Tensor:
        """Each text row attends to the visible prefix of its sample's vision tokens; zeros where it sees nothing.

        Returns (rows, heads · d).
        """
        ...


class VisionStore(Protocol):
    """Where keys and values of vision tokens go, (vision rows, kv heads, d) as projected."""

    def store_vision(self, layer: int, k: Tensor, v: Tensor, attn: "Attention", rope: Rope) -> None:
        """Keep normalised and rotated keys, and values, of vision tokens that are new in this call."""
        ...


class TextBackend(Products, TextAttention, Protocol):
    """What text rows are computed with."""


class VisionBackend(Products, VisionStore, Protocol):
    """What vision tokens are read with."""


class Backend(TextBackend, VisionBackend, Protocol):
    """Both."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, in float32 inside."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    """The parts of SwiGLU."""

    def __init__(self, config: MossVLTextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]


class Attention(nn.Module):
    """The parts of grouped-query attention with normalised and rotated queries and keys."""

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
    """A decoder block whose text rows attend to each other."""

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
    """A decoder block whose text rows read vision tokens, through two gates that start closed."""

    def __init__(self, config: MossVLTextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.cross_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn_attn_gate = nn.Parameter(torch.zeros(1))
        self.cross_attn_mlp_gate = nn.Parameter(torch.zeros(1))

    def read(self, vision: Tensor, rope: Rope, backend: VisionBackend) -> None:
        """Keys and values of vision tokens (vision rows, hidden); `rope` are their angles."""
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

        `vision` (vision rows, hidden) are vision tokens to be read first, into `store`; `vision_rope` their angles.
        """
        if vision is not None and vision_rope is not None and store is not None:
            self.read(vision, vision_rope, store)
        attn = self.cross_attn
        (q,) = map(attn.heads, backend.project(x, (attn.q_proj,), self.input_layernorm))
        attended = backend.cross_attention(self.index, q, attn, rope)
        x = backend.add_gated(x, attended, attn.o_proj, self.cross_attn_attn_gate, sees)
        hidden = backend.swiglu(x, self.post_attention_layernorm, self.mlp)
        return backend.add_gated(x, hidden, self.mlp.down_proj, self.cross_attn_mlp_gate, sees)


class PlainProducts:
    """The `Products` as the modules themselves compute them, whatever stands in their place."""

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: RMSNorm | None = None) -> list[Tensor]:
        x = x if norm is None else norm(x)
        return [linear(x) for linear in linears]

    def swiglu(self, x: Tensor, norm: RMSNorm, mlp: MLP) -> Tensor:
        x = norm(x)
        return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)

    def add(self, residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
        return residual + linear(x)

    def add_gated(self, residual: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor, sees: Tensor) -> Tensor:
        return residual + gate.tanh() * sees * linear(x)
