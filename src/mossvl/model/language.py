"""The language model: embedding, decoder layers, final norm, over packed rows."""

from torch import Tensor, nn

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.layers import Backend, CrossAttentionLayer, RMSNorm, SelfAttentionLayer
from mossvl.model.xrope import rotary


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
        backend: Backend,
        sees: Tensor | None = None,
        vision: tuple[Tensor, Tensor] | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Run packed rows through all layers.

        Args:
            x: (rows, hidden) embeddings.
            positions: (3, rows) rotary positions.
            backend: computes, keeps samples apart and remembers their keys and values.
            sees: (rows, 1), 1 for rows that see a frame, else 0; None when no row does, and cross layers are skipped.
            vision: the vision tokens that are new in this call, (vision rows, hidden), and their rotary positions,
                (3, vision rows).
            states: if given, what enters each layer and the result are appended to it.
        """
        rope = rotary(self.config, positions, x.dtype)
        tokens, turned = None, None
        if vision is not None:
            tokens, turned = vision[0], rotary(self.config, vision[1], vision[0].dtype)
        for layer in self.layers:
            if states is not None:
                states.append(x)
            if isinstance(layer, SelfAttentionLayer):
                x = layer(x, rope, backend)
            elif sees is not None:
                x = layer(x, rope, backend, sees, tokens, turned)
        x = self.norm(x)
        if states is not None:
            states.append(x)
        return x
