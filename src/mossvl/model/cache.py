"""Keys and values of earlier calls, kept per sample, without padding."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from mossvl.model.configuration import MossVLTextConfig


class SampleLayer(CacheLayerMixin):
    """One layer's keys and values: for each sample (tokens, kv heads, head_dim).

    Serves self-attention layers (one row per text token) and cross-attention layers (one per vision token). Samples
    that share a prompt, as beams do, share its tensors: an update makes new tensors and never writes into old ones.
    """

    is_sliding = False

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: lists grow as they are filled."""

    def update(
        self, key_states: Sequence[Tensor], value_states: Sequence[Tensor], *args: object, **kwargs: object
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Append one tensor per sample (an empty list appends nothing) and return everything kept so far."""
        if key_states:
            self.keys = self._grown(self.keys, key_states)
            self.values = self._grown(self.values, value_states)
        return self.keys, self.values

    @staticmethod
    def _grown(kept: list[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
        if not kept:
            return list(new)
        return [torch.cat(pair) if len(pair[1]) else pair[0] for pair in zip(kept, new, strict=True)]

    def select(self, index: Sequence[int]) -> None:
        """Keep these samples, in this order; an index may come several times."""
        if self.keys:
            self.keys = [self.keys[i] for i in index]
            self.values = [self.values[i] for i in index]

    def extend(self, other: "SampleLayer", samples: int, others: int) -> None:
        """Append the `others` samples of another layer to the `samples` of this one.

        Either layer may be empty: text-only samples fill no cross-attention layers.
        """
        for name in ("keys", "values"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine or theirs:
                empty = (mine or theirs)[0][:0]
                setattr(self, name, (mine or [empty] * samples) + (theirs or [empty] * others))

    def reset(self) -> None:
        self.keys, self.values = [], []

    def get_seq_length(self) -> int:
        return max((len(keys) for keys in self.keys), default=0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length
    """Name of `get_max_length` in older versions of transformers."""


class MossVLCache(Cache):
    """State of earlier forward passes: keys and values, and the positions of each sample.

    Attributes:
        columns: number of columns of input_ids so far, padding included.
        next_positions: for each sample, the rotary position of its next token.
        vision_ends: for each sample, the ends of its frames in its vision sequence, (frames,) int64 on the CPU.
    """

    def __init__(self, config: MossVLTextConfig) -> None:
        super().__init__(layers=[SampleLayer() for _ in range(config.num_hidden_layers)])
        self.columns = 0
        self.next_positions: list[int] = []
        self.vision_ends: list[Tensor] = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of columns of input_ids so far, padding included, as `generate` counts them."""
        return self.columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def reset(self) -> None:
        super().reset()
        self.columns, self.next_positions, self.vision_ends = 0, [], []

    def select(self, index: Sequence[int]) -> None:
        """Keep these samples, in this order; an index may come several times."""
        for layer in self.layers:
            layer.select(index)
        self.next_positions = [self.next_positions[i] for i in index]
        self.vision_ends = [self.vision_ends[i] for i in index]

    def extend(self, other: "MossVLCache") -> None:
        """Append another cache's samples; tensors are shared, not copied."""
        for layer, added in zip(self.layers, other.layers, strict=True):
            layer.extend(added, len(self.next_positions), len(other.next_positions))
        self.columns = max(self.columns, other.columns)
        self.next_positions = self.next_positions + other.next_positions
        self.vision_ends = self.vision_ends + other.vision_ends

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.select(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        self.select(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.select([i for i in range(len(self.next_positions)) for _ in range(repeats)])
