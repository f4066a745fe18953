"""The language model: embedding, decoder layers, final norm, over packed rows."""

from typing import NamedTuple

from torch import Tensor, nn

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.layers import CrossAttentionLayer, RMSNorm, SelfAttentionLayer, TextBackend, VisionBackend
from mossvl.model.xrope import Rope, rotary


class NewVision(NamedTuple):
    """Vision tokens that are new in a call.

    Attributes:
        tokens: (vision rows, hidden).
        positions: (3, vision rows) rotary positions.
        backend: keeps their keys and values.
    """

    tokens: Tensor
    positions: Tensor
    backend: VisionBackend


class TextModel(nn.Module):
    """All samples' text in packed rows, (rows, hidden); `backend` keeps the samples apart."""

    def __init__(self, config: MossVLTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        crossing = set(config.cross_attention_layers)
        self.layers = nn.ModuleList(
            (CrossAttentionLayer if index in crossing else SelfAttentionLayer)(config, index)
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        backend: TextBackend,
        sees: Tensor | None = None,
        vision: NewVision | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Run packed rows through all layers.

        Args:
            x: (rows, hidden) embeddings.
            positions: (3, rows) rotary positions.
            backend: computes, keeps samples apart and remembers their keys and values.
            sees: (rows, 1), 1 for rows that see a frame, else 0; None when no row does, and cross layers are skipped.
            vision: vision tokens that are new in this call, which the cross layers read first.
            states: if given, what enters each layer and the result are appended to it.
        """
        rope = rotary(self.config, positions, x.dtype)
        read: tuple[Tensor, Rope, VisionBackend] | tuple[()] = ()
        if vision is not None:
            read = vision.tokens, rotary(self.config, vision.positions, vision.tokens.dtype), vision.backend
        for layer in self.layers:
            if states is not None:
                states.append(x)
            if isinstance(layer, SelfAttentionLayer):
                x = layer(x, rope, backend)
            elif sees is not None:
                x = layer(x, rope, backend, sees, *read)
        x = self.norm(x)
        if states is not None:
            states.append(x)
        return x
