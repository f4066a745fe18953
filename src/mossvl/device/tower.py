"""The vision tower on its device: encodes pixels, in smaller batches when the device's memory runs out."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mossvl.adapters.loaded import Adapters
from mossvl.device.set_ups import SetUps
from mossvl.model.modeling import MossVLModel
from mossvl.model.vision_ops import PlainOps, VisionOps
from mossvl.processing.pixels import Grid
from mossvl.scheduling.pages import NO_ADAPTER
from mossvl.scheduling.request import PixelScale

Size = tuple[int, int]
"""Patch rows and patch columns of a frame."""

How = tuple[PixelScale, int]
"""How pixels are scaled, and the index of the adapter of the tower; `NO_ADAPTER` if it has none."""

EncodePixels = Callable[[Tensor, Sequence[Grid]], Tensor]
"""(uint8 patches (patches, features), their grids) → (vision tokens, hidden)."""
WARM_UP = 8
"""Patch rows and columns of the frame that compiles kernels."""


class Tower:
    """Encodes pixels that lie on the device.

    Args:
        fast: compute the tower with the kernels of `mossvl.kernels`.
        graphs: capture small batches whose grids recur as CUDA graphs.
        adapters: that requests may have.

    Attributes:
        set_ups: how long set-ups for new shapes may take.
        halvings: how often a batch was halved because memory ran out.
    """

    def __init__(self, model: MossVLModel, fast: bool, graphs: bool, adapters: Adapters) -> None:
        self.model, self.fast, self.graphs, self.adapters = model, fast, graphs, adapters
        self._models = {NO_ADAPTER: model}
        self.halvings = 0
        config, self.weight = model.visual.config, model.visual.patch_embed.proj.weight
        self.width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        self.set_ups = SetUps()
        self._encoders: dict[How, EncodePixels] = {}

    def set_up(self) -> None:
        """Make libraries load their per-thread state in the calling thread now, so that no query waits for it."""
        self.set_ups.forget()
        config = self.model.visual.config
        if self.fast and self.weight.dtype != torch.float32:
            from mossvl.device.triton_vision import set_up_attention

            set_up_attention(config.num_heads, config.hidden_size // config.num_heads, self.weight)

    def warm_up(self) -> None:
        """Compile the tower's kernels."""
        channels = self.model.visual.config.in_channels
        pixels = torch.zeros((WARM_UP * WARM_UP, self.width), dtype=torch.uint8, device=self.weight.device)
        ops = self.ops(((0.5,) * channels, (0.5,) * channels))
        self.model.encode_vision(pixels, [(1, WARM_UP, WARM_UP)], ops=ops)

    def clear(self) -> None:
        """Drop everything computed from the weights, which may have changed."""
        self._encoders.clear()

    def encode(self, pixels: Tensor, sizes: Sequence[Size], how: How) -> Tensor:
        """Encode frames: uint8 patches (patches, features) → vision tokens (tokens, hidden), separators included.

        Raises:
            torch.OutOfMemoryError: a single frame does not fit into the device's memory.
        """
        try:
            return self._encode_at_once(pixels, sizes, how)
        except torch.OutOfMemoryError:
            if len(sizes) == 1:
                raise
        self.halvings += 1
        if pixels.is_cuda:
            torch.cuda.empty_cache()
        half = len(sizes) // 2
        rows = sum(height * width for height, width in sizes[:half])
        parts = (pixels[:rows], sizes[:half]), (pixels[rows:], sizes[half:])
        return torch.cat([Tower.encode(self, *part, how) for part in parts])

    def _encode_at_once(self, pixels: Tensor, sizes: Sequence[Size], how: How) -> Tensor:
        grids = [(len(list(same)), *size) for size, same in groupby(sizes)]
        if how not in self._encoders:
            self._encoders[how] = self._pixel_encoder(*how)
        return self._encoders[how](pixels, grids)

    def adapted(self, adapter: int) -> MossVLModel:
        """The model whose tower has an adapter, given by its index."""
        if adapter not in self._models:
            self._models[adapter] = self.adapters.vision(self.model, adapter)
        return self._models[adapter]

    def _pixel_encoder(self, scale: PixelScale, adapter: int) -> EncodePixels:
        # Not `self`: `_encoders` would make that a reference cycle.
        model, set_ups = self.adapted(adapter), self.set_ups
        ops = self.ops(scale)
        if not self.fast or not self.graphs:
            return lambda pixels, grids: model.encode_vision(pixels, grids, ops=ops)
        from mossvl.device.triton_vision import TritonOps
        from mossvl.device.vision_graphs import VisionGraphs

        def encode(pixels: Tensor, grids: Sequence[Grid], ops: TritonOps) -> Tensor:
            return model.encode_vision(pixels, grids, ops=ops)

        return VisionGraphs(encode, lambda often: TritonOps(*scale, often, set_ups), set_ups)

    def ops(self, scale: PixelScale) -> VisionOps:
        """The tower's operations for pixels of this scale."""
        if not self.fast:
            return PlainOps(*scale)
        from mossvl.device.triton_vision import TritonOps

        return TritonOps(*scale, set_ups=self.set_ups)
