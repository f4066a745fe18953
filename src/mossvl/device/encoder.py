"""Encodes frames to vision tokens, in one batch, or in smaller ones when the device's memory runs out."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mossvl.adapters.loaded import Adapters
from mossvl.device.large_frame import LargeFrame
from mossvl.device.set_ups import SetUps
from mossvl.device.staging import Staging
from mossvl.device.vision_cache import VisionCache
from mossvl.model.modeling import MossVLModel
from mossvl.model.vision_ops import PlainOps, VisionOps
from mossvl.processing.pixels import Grid
from mossvl.scheduling.pages import NO_ADAPTER
from mossvl.scheduling.request import PixelScale, Request

Frame = tuple[Request[object], int]
"""(request, index of its frame)."""

How = tuple[PixelScale, int]
"""How pixels are scaled, and the index of the adapter of the tower; `NO_ADAPTER` if it has none."""

EncodePixels = Callable[[Tensor, Sequence[Grid]], Tensor]
"""(uint8 patches (patches, features), their grids) → (vision tokens, hidden)."""


class FrameEncoder:
    """Encodes frames whose pixels are loaded, and puts their vision tokens into the vision cache.

    Args:
        device: device of the vision tokens that are returned.
        most_patches: usual maximum number of patches of a batch.
        fast: compute the tower with the kernels of `mossvl.kernels`.
        graphs: capture small batches whose grids recur as CUDA graphs.
        adapters: that requests may have.

    Attributes:
        halvings: how often a batch was halved because memory ran out.
    """

    def __init__(
        self,
        model: MossVLModel,
        cache: VisionCache,
        device: torch.device,
        most_patches: int,
        fast: bool = False,
        graphs: bool = False,
        adapters: Adapters | None = None,
    ) -> None:
        self.model, self.cache, self.device = model, cache, device
        self._adapters = adapters or Adapters()
        self._models = {NO_ADAPTER: model}
        self.fast, self.graphs = fast, graphs
        self.halvings = 0
        config, weight = model.visual.config, model.visual.patch_embed.proj.weight
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        self._staging = Staging(weight.device, most_patches, width)
        self._set_ups = SetUps()
        self._encoders: dict[How, EncodePixels] = {}
        self._begun: tuple[Request[object], LargeFrame] | None = None

    def set_up(self) -> None:
        """Make libraries load their per-thread state in the calling thread now, so that no query waits for it."""
        self._set_ups.forget()
        config, weight = self.model.visual.config, self.model.visual.patch_embed.proj.weight
        if self.fast and weight.dtype != torch.float32:
            from mossvl.device.triton_vision import set_up_attention

            set_up_attention(config.num_heads, config.hidden_size // config.num_heads, weight)

    def warm_up(self) -> None:
        """Compile the tower's kernels."""
        config, rows = self.model.visual.config, 8
        pixels = torch.zeros((rows * rows, self._staging.width), dtype=torch.uint8)
        ops = self._ops(((0.5,) * config.in_channels, (0.5,) * config.in_channels))
        self.model.encode_vision(self._staging.upload([pixels]), [(1, rows, rows)], ops=ops)

    def clear(self) -> None:
        """Drop everything computed from the weights, which may have changed."""
        self.cache.clear()
        self._encoders.clear()

    def give_up(self) -> None:
        """Drop the large frame in progress if its request has ended or will encode the frame from the start."""
        if self._begun is not None and not self._begun[0].partly:
            self._begun = None

    def spare(self, seconds: float) -> None:
        """Tell how long set-ups for new shapes may take from now on; infinite is without a bound."""
        self._set_ups.spare = seconds

    def encode(self, frames: Sequence[Frame]) -> dict[tuple[int, int], Tensor]:
        """Encode frames → for each (request number, frame), its vision tokens (tokens, hidden), separator included.

        Raises:
            torch.OutOfMemoryError: a single frame does not fit into the device's memory.
        """
        encoded: dict[tuple[int, int], Tensor] = {}
        for how, same in groupby(frames, key=lambda one: self._how(one[0])):
            group = list(same)
            ranges = [request.context.vision_range(frame, frame + 1) for request, frame in group]
            tokens = self._encode(group, how).split([stop - start for start, stop in ranges])
            for (request, frame), own in zip(group, tokens, strict=True):
                encoded[request.number, frame] = own
                self.cache.put(request.digests[frame], own)
        return encoded

    def advance(self, request: Request[object], frame: int, until: float) -> Tensor | None:
        """Encode a large frame up to the share `until` → its vision tokens (tokens, hidden) if that is 1, else None."""
        grid = request.context.grid(frame)
        begun, self._begun = self._begun, None
        if begun is None or begun[0] is not request:
            pixels = self._staging.upload([request.pixels[frame]])
            tower = self._adapted(self._how(request)[1]).visual
            begun = request, LargeFrame(tower, pixels, grid, self._ops(request.pixel_scale))
        merged = begun[1].advance(until)
        if merged is None:
            self._begun = begun
            return None
        tokens = self.model.separated(merged, [(1, *grid)]).to(self.device)
        self.cache.put(request.digests[frame], tokens)
        return tokens

    def _encode(self, frames: list[Frame], how: How) -> Tensor:
        try:
            return self._encode_at_once(frames, how)
        except torch.OutOfMemoryError:
            if len(frames) == 1:
                raise
        self.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(frames) // 2
        return torch.cat([self._encode(frames[:half], how), self._encode(frames[half:], how)])

    def _encode_at_once(self, frames: list[Frame], how: How) -> Tensor:
        """(vision tokens, hidden) of these frames."""
        pixels = self._staging.upload([request.pixels[frame] for request, frame in frames])
        grids = [
            (len(list(same)), *grid) for grid, same in groupby(request.context.grid(frame) for request, frame in frames)
        ]
        if how not in self._encoders:
            self._encoders[how] = self._pixel_encoder(*how)
        return self._encoders[how](pixels, grids).to(self.device)

    def _how(self, request: Request[object]) -> How:
        return request.pixel_scale, request.adapter if self._adapters.sees(request.adapter) else NO_ADAPTER

    def _adapted(self, adapter: int) -> MossVLModel:
        if adapter not in self._models:
            self._models[adapter] = self._adapters.vision(self.model, adapter)
        return self._models[adapter]

    def _pixel_encoder(self, scale: PixelScale, adapter: int) -> EncodePixels:
        # Not `self`: `_encoders` would make that a reference cycle.
        model, set_ups = self._adapted(adapter), self._set_ups
        ops = self._ops(scale)
        if not self.fast or not self.graphs:
            return lambda pixels, grids: model.encode_vision(pixels, grids, ops=ops)
        from mossvl.device.triton_vision import TritonOps
        from mossvl.device.vision_graphs import VisionGraphs

        def encode(pixels: Tensor, grids: Sequence[Grid], ops: TritonOps) -> Tensor:
            return model.encode_vision(pixels, grids, ops=ops)

        return VisionGraphs(encode, lambda often: TritonOps(*scale, often, set_ups), set_ups)

    def _ops(self, scale: PixelScale) -> VisionOps:
        if not self.fast:
            return PlainOps(*scale)
        from mossvl.device.triton_vision import TritonOps

        return TritonOps(*scale, set_ups=self._set_ups)
