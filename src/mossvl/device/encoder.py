"""Encodes the frames of requests to vision tokens, and keeps these in the vision cache."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from mossvl.device.large_frame import LargeFrame
from mossvl.device.staging import Staging
from mossvl.device.tower import How, Tower
from mossvl.device.vision_cache import VisionCache
from mossvl.scheduling.pages import NO_ADAPTER
from mossvl.scheduling.request import Request

Frame = tuple[Request[object], int]
"""(request, index of its frame)."""


class FrameEncoder:
    """Encodes frames whose pixels are loaded, and puts their vision tokens into the vision cache.

    Args:
        device: device of the vision tokens that are returned.
        most_patches: usual maximum number of patches of a batch.
    """

    def __init__(self, tower: Tower, cache: VisionCache, device: torch.device, most_patches: int) -> None:
        self.tower, self.cache, self.device = tower, cache, device
        self._staging = Staging(tower.weight.device, most_patches, tower.width)
        self._begun: tuple[Request[object], LargeFrame] | None = None

    def clear(self) -> None:
        """Drop everything computed from the weights, which may have changed."""
        self.cache.clear()
        self.tower.clear()

    def give_up(self) -> None:
        """Drop the large frame in progress if its request has ended or will encode the frame from the start."""
        if self._begun is not None and not self._begun[0].partly:
            self._begun = None

    def spare(self, seconds: float) -> None:
        """Tell how long set-ups for new shapes may take from now on; infinite is without a bound."""
        self.tower.set_ups.begin_step(seconds)

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
            model = self.tower.adapted(self._how(request)[1])
            begun = request, LargeFrame(model.visual, pixels, grid, self.tower.ops(request.pixel_scale))
        merged = begun[1].advance(until)
        if merged is None:
            self._begun = begun
            return None
        tokens = self.tower.model.separated(merged, [(1, *grid)]).to(self.device)
        self.cache.put(request.digests[frame], tokens)
        return tokens

    def _how(self, request: Request[object]) -> How:
        return request.pixel_scale, request.adapter if self.tower.adapters.sees(request.adapter) else NO_ADAPTER

    def _encode(self, frames: Sequence[Frame], how: How) -> Tensor:
        """(vision tokens, hidden) of these frames."""
        pixels = self._staging.upload([request.pixels[frame] for request, frame in frames])
        sizes = [request.context.grid(frame) for request, frame in frames]
        return self.tower.encode(pixels, sizes, how).to(self.device)
