"""The language model: embedding, decoder layers, final norm, over packed rows."""

from typing import NamedTuple

from torch import Tensor, nn

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.layers import CrossAttentionLayer, RMSNorm, SelfAttentionLayer, TextBackend, VisionBackend
from mossvl.model.xrope import Rope, rotary


class NewVision(NamedTuple):
    """The vision tokens that are new in a call.

    Attributes:
        tokens: (vision rows, hidden).
        positions: (3, vision rows) rotary positions.
        backend: stores their keys and values.
    """

    tokens: Tensor
    positions: Tensor
    backend: VisionBackend


class TextModel(nn.Module):
    """The decoder over packed rows of all samples, (rows, hidden)."""

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
            backend: computes, keeps the samples apart and stores their keys and values.
            sees: (rows, 1), 1 for rows that see a frame, else 0; None skips cross-attention layers, if no row does.
            vision: new vision tokens; cross-attention layers store their keys and values first.
            states: a list to which each layer's input and the result are appended.

        Returns:
            (rows, hidden), after the final norm.
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
