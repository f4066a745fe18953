"""The vision tower captured as CUDA graphs, for batches whose kernels take less time than their launches."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mossvl.device.capture import capturing
from mossvl.device.triton_vision import MANY_PATCHES, TritonOps
from mossvl.processing.pixels import Grid

OFTEN = 4
"""Batches of the same grids that are encoded before one is captured."""
MOST_GRAPHS = 32
PATIENCE = 64
"""Batches, beyond `OFTEN`, before an evicted graph is captured again: a capture costs as much as ten batches."""
MOST_COUNTED = 4096
"""Maximum number of grids whose batches are counted."""


@dataclass
class VisionGraph:
    """A captured batch.

    Attributes:
        output: (vision tokens, hidden), which each replay overwrites.
        ops: owner of the tables that the graph reads.
    """

    graph: torch.cuda.CUDAGraph
    output: Tensor
    ops: TritonOps


class VisionGraphs:
    """Encodes batches of pixels, by replay of a graph if their grids are small and recur.

    Args:
        encode: (uint8 patches on the device, their grids, `TritonOps`) → (vision tokens, hidden).
        ops: makes `TritonOps`, given whether grids recur (`TritonOps.often`).
    """

    def __init__(
        self, encode: Callable[[Tensor, Sequence[Grid], TritonOps], Tensor], ops: Callable[[bool], TritonOps]
    ) -> None:
        self._encode, self._new_ops = encode, ops
        self._ops = ops(False)
        self._counts: Counter[tuple[Grid, ...]] = Counter()
        self._graphs: OrderedDict[tuple[Grid, ...], VisionGraph] = OrderedDict()
        self._pixels: Tensor | None = None
        self._memory: Any = None

    def __call__(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        key = tuple(grids)
        if key not in self._graphs and not self._deserves(key, len(pixels)):
            return self._encode(pixels, grids, self._ops)
        if self._pixels is None:
            self._pixels = pixels.new_zeros((MANY_PATCHES, pixels.shape[1]))
        self._pixels[: len(pixels)].copy_(pixels)
        if key not in self._graphs:
            self._graphs[key] = self._capture(key, self._pixels[: len(pixels)])
        self._graphs.move_to_end(key)
        self._graphs[key].graph.replay()
        return self._graphs[key].output.clone()

    def _deserves(self, key: tuple[Grid, ...], patches: int) -> bool:
        if patches >= MANY_PATCHES:
            return False
        if len(self._counts) >= MOST_COUNTED:
            self._counts.clear()
        self._counts[key] += 1
        return self._counts[key] > OFTEN

    def _capture(self, key: tuple[Grid, ...], pixels: Tensor) -> VisionGraph:
        while len(self._graphs) >= MOST_GRAPHS:
            torch.cuda.synchronize(pixels.device)  # A replay of the evicted graph may be running.
            evicted = next(iter(self._graphs))
            del self._graphs[evicted]
            self._counts[evicted] = -PATIENCE
        ops = self._new_ops(True)
        self._encode(pixels, key, ops)  # Warm-up: make tables, set up libraries.
        with capturing(pixels.device, self._memory) as graph:
            output = self._encode(pixels, key, ops)
        self._memory = graph.pool()
        return VisionGraph(graph, output, ops)
