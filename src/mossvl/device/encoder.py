"""Frames' pixels in, their vision tokens out: in one batch, in smaller ones when memory runs out."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mossvl.device.large_frame import LargeFrame
from mossvl.device.staging import Staging
from mossvl.device.vision_cache import VisionCache
from mossvl.model.modeling import MossVLModel
from mossvl.model.vision_ops import PlainOps, VisionOps
from mossvl.processing.pixels import Grid
from mossvl.scheduling.request import PixelScale, Request

Frame = tuple[Request[object], int]
"""A request, and which of its frames."""

EncodePixels = Callable[[Tensor, Sequence[Grid]], Tensor]
"""From uint8 patches and their grids to (vision tokens, hidden)."""


class FrameEncoder:
    """Encodes frames whose pixels are there, and keeps what comes out in the vision cache.

    Args:
        device: where the vision tokens are wanted.
        most_patches: of one batch, as a rule.
        fast: the tower is computed with the kernels of `mossvl.kernels`.
        graphs: small batches of sizes that come often are captured as CUDA graphs.

    Attributes:
        halvings: how often frames were encoded in smaller batches because memory did not suffice.
    """

    def __init__(
        self,
        model: MossVLModel,
        cache: VisionCache,
        device: torch.device,
        most_patches: int,
        fast: bool = False,
        graphs: bool = False,
    ) -> None:
        self.model, self.cache, self.device = model, cache, device
        self.fast, self.graphs = fast, graphs
        self.halvings = 0
        config, weight = model.visual.config, model.visual.patch_embed.proj.weight
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        self._staging = Staging(weight.device, most_patches, width)
        self._by_scale: dict[PixelScale, EncodePixels] = {}
        self._begun: tuple[Request[object], LargeFrame] | None = None

    def set_up(self) -> None:
        """Let libraries load what they load once for every thread that computes: no later query waits for it."""
        config, weight = self.model.visual.config, self.model.visual.patch_embed.proj.weight
        if self.fast and weight.dtype != torch.float32:
            from mossvl.device.triton_vision import set_up_attention

            set_up_attention(config.num_heads, config.hidden_size // config.num_heads, weight)

    def warm_up(self) -> None:
        """Compile the kernels that frames need."""
        config, rows = self.model.visual.config, 8
        pixels = torch.zeros((rows * rows, self._staging.width), dtype=torch.uint8)
        ops = self._ops(((0.5,) * config.in_channels, (0.5,) * config.in_channels))
        self.model.encode_vision(self._staging.upload([pixels]), [(1, rows, rows)], ops=ops)

    def clear(self) -> None:
        """Forget what was computed with weights that may have changed."""
        self.cache.clear()
        self._by_scale.clear()

    def give_up(self) -> None:
        """Free a large frame whose request has ended, or must begin it anew."""
        if self._begun is not None and not self._begun[0].partly:
            self._begun = None

    def encode(self, frames: Sequence[Frame]) -> dict[tuple[int, int], Tensor]:
        """Vision tokens, separator included, of each (request's number, frame)."""
        encoded: dict[tuple[int, int], Tensor] = {}
        for scale, same in groupby(frames, key=lambda one: one[0].pixel_scale):
            group = list(same)
            ranges = [request.context.vision_range(frame, frame + 1) for request, frame in group]
            tokens = self._encode(group, scale).split([stop - start for start, stop in ranges])
            for (request, frame), own in zip(group, tokens, strict=True):
                encoded[request.number, frame] = own
                self.cache.put(request.digests[frame], own)
        return encoded

    def advance(self, request: Request[object], frame: int, until: float) -> Tensor | None:
        """Go on with a request's large frame until this much of it is done → its vision tokens, once that is 1."""
        grid = request.context.grid(frame)
        begun, self._begun = self._begun, None
        if begun is None or begun[0] is not request:
            pixels = self._staging.upload([request.pixels[frame]])
            begun = request, LargeFrame(self.model.visual, pixels, grid, self._ops(request.pixel_scale))
        merged = begun[1].advance(until)
        if merged is None:
            self._begun = begun
            return None
        tokens = self.model.separated(merged, [(1, *grid)]).to(self.device)
        self.cache.put(request.digests[frame], tokens)
        return tokens

    def _encode(self, frames: list[Frame], scale: PixelScale) -> Tensor:
        try:
            return self._encode_at_once(frames, scale)
        except torch.OutOfMemoryError:
            if len(frames) == 1:
                raise
        self.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(frames) // 2
        return torch.cat([self._encode(frames[:half], scale), self._encode(frames[half:], scale)])

    def _encode_at_once(self, frames: list[Frame], scale: PixelScale) -> Tensor:
        """(vision tokens, hidden) of these frames."""
        pixels = self._staging.upload([request.pixels[frame] for request, frame in frames])
        grids = [
            (len(list(same)), *grid) for grid, same in groupby(request.context.grid(frame) for request, frame in frames)
        ]
        if scale not in self._by_scale:
            self._by_scale[scale] = self._pixel_encoder(scale)
        return self._by_scale[scale](pixels, grids).to(self.device)

    def _pixel_encoder(self, scale: PixelScale) -> EncodePixels:
        model = self.model  # Not `self`, which would keep itself alive through what it keeps.
        ops = self._ops(scale)
        if not self.fast or not self.graphs:
            return lambda pixels, grids: model.encode_vision(pixels, grids, ops=ops)
        from mossvl.device.triton_vision import TritonOps
        from mossvl.device.vision_graphs import VisionGraphs

        def encode(pixels: Tensor, grids: Sequence[Grid], ops: TritonOps) -> Tensor:
            return model.encode_vision(pixels, grids, ops=ops)

        return VisionGraphs(encode, lambda often: TritonOps(*scale, often=often))

    def _ops(self, scale: PixelScale) -> VisionOps:
        if not self.fast:
            return PlainOps(*scale)
        from mossvl.device.triton_vision import TritonOps

        return TritonOps(*scale)
