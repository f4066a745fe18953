"""The decoder's layers, defined once for every way the model is run.

Text tokens of all samples lie in packed rows, (rows, hidden), without padding. A layer projects, normalises and
rotates; how rows of different samples are kept apart, and where keys and values are stored, is decided by the `Attend`
object that is passed in.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.xrope import Rope, rotate


class Attend(Protocol):
    """Attention over packed rows. q, k, v are (rows, heads, head_dim), already rotated; the result has q's shape."""

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each text row attends to the rows of its own sample up to itself, earlier calls' rows included."""
        ...

    def cross_attention(self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None) -> Tensor:
        """Each text row attends to the visible prefix of its sample's vision tokens.

        k and v belong to the vision tokens that are new in this call, or are None when there are none.
        Rows that see nothing get zeros.
        """
        ...


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, in float32 inside."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MossVLTextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """Projections of grouped-query attention, with normalised and rotated queries and keys."""

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

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))

    def queries(self, x: Tensor, rope: Rope) -> Tensor:
        """(rows, hidden) → (rows, heads, head_dim)."""
        return rotate(self.q_norm(self._heads(self.q_proj(x))), rope)

    def keys_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """(rows, hidden) → keys and values, (rows, kv heads, head_dim) each."""
        return rotate(self.k_norm(self._heads(self.k_proj(x))), rope), self._heads(self.v_proj(x))

    def output(self, x: Tensor) -> Tensor:
        """(rows, heads, head_dim) → (rows, hidden)."""
        return self.o_proj(x.flatten(-2))


class SelfAttentionLayer(GradientCheckpointingLayer):
    """A decoder block whose text rows attend to each other."""

    def __init__(self, config: MossVLTextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: Rope, attend: Attend) -> Tensor:
        normed = self.input_layernorm(x)
        q = self.self_attn.queries(normed, rope)
        k, v = self.self_attn.keys_values(normed, rope)
        x = x + self.self_attn.output(attend.self_attention(self.index, q, k, v))
        return x + self.mlp(self.post_attention_layernorm(x))


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

    def forward(
        self,
        x: Tensor,
        rope: Rope,
        attend: Attend,
        sees: Tensor,
        vision: Tensor | None,
        vision_rope: Rope | None,
    ) -> Tensor:
        """`sees` (rows, 1) is 1 for rows that see a frame and 0 for the others, which pass unchanged.

        `vision` (vision rows, hidden) are the vision tokens that are new in this call, `vision_rope` their angles.
        """
        q = self.cross_attn.queries(self.input_layernorm(x), rope)
        k, v = None, None
        if vision is not None and vision_rope is not None:
            k, v = self.cross_attn.keys_values(vision, vision_rope)
        attended = self.cross_attn.output(attend.cross_attention(self.index, q, k, v))
        x = x + self.cross_attn_attn_gate.tanh() * sees * attended
        return x + self.cross_attn_mlp_gate.tanh() * sees * self.mlp(self.post_attention_layernorm(x))
