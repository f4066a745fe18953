"""The vision tower captured as CUDA graphs, for batches that take less time than launching their kernels one by one."""

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
"""So many batches of the same grids are encoded before they get a graph."""
MOST_GRAPHS = 32
PATIENCE = 64
"""So many more before a graph that had to make room is made again: making one costs as much as ten batches."""
MOST_COUNTED = 4096
"""Grids whose batches are counted."""


@dataclass
class VisionGraph:
    """A captured batch.

    Attributes:
        output: where replays put the vision tokens.
        ops: holds the tables that the graph reads.
    """

    graph: torch.cuda.CUDAGraph
    output: Tensor
    ops: TritonOps


class VisionGraphs:
    """Encodes batches of pixels, by a graph where their grids have come often and are small.

    Args:
        encode: from uint8 patches on the device and their grids to (vision tokens, hidden), with some `TritonOps`.
        ops: makes them; takes whether what they compute comes often.
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
            torch.cuda.synchronize(pixels.device)  # It may be running.
            evicted = next(iter(self._graphs))
            del self._graphs[evicted]
            self._counts[evicted] = -PATIENCE
        ops = self._new_ops(True)
        self._encode(pixels, key, ops)  # Tables are made, and libraries set up, outside of the graph.
        with capturing(pixels.device, self._memory) as graph:
            output = self._encode(pixels, key, ops)
        self._memory = graph.pool()
        return VisionGraph(graph, output, ops)
