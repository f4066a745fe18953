"""The vision tower captured as CUDA graphs, for batches whose kernels take less time than their launches."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mossvl.device.capture import capturing
from mossvl.device.set_ups import MANY_PATCHES, SET_UP_SECONDS, SetUps
from mossvl.processing.pixels import Grid

if TYPE_CHECKING:
    from mossvl.device.triton_vision import TritonOps

OFTEN = 4
"""Batches of the same grids that are encoded before one is captured."""
MOST_GRAPHS = 32
PATIENCE = 64
"""Batches, beyond `OFTEN`, before an evicted graph is captured again: a capture costs as much as ten batches."""
CAPTURE_SECONDS = 0.08
"""What a capture takes, in seconds of the host, once all is set up for it."""
MOST_WARM = 32
"""Batches at most that wait for their capture."""
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
    ops: "TritonOps"


class VisionGraphs:
    """Encodes batches of pixels, by replay of a graph if their grids are small and recur.

    Args:
        encode: (uint8 patches on the device, their grids, `TritonOps`) → (vision tokens, hidden).
        ops: makes `TritonOps`, given whether grids recur (`TritonOps.often`).
        set_ups: tells how long a capture, and setting up for it, may take.
    """

    def __init__(
        self,
        encode: "Callable[[Tensor, Sequence[Grid], TritonOps], Tensor]",
        ops: "Callable[[bool], TritonOps]",
        set_ups: SetUps,
    ) -> None:
        self._set_ups = set_ups
        self._warm: dict[tuple[Grid, ...], TritonOps] = {}
        """Operations whose tables are made for what is captured next; `set_ups` knows whether its libraries are."""
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
        if key not in self._graphs and (key not in self._warm or key not in self._set_ups):
            return self._encode_warming(key, pixels)
        if key not in self._graphs and not self._set_ups.allows(CAPTURE_SECONDS):
            return self._encode(pixels, grids, self._warm[key])
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

    def _encode_warming(self, key: tuple[Grid, ...], pixels: Tensor) -> Tensor:
        """Encode a batch that is captured the next time, if there is time to set its libraries up."""
        if not self._set_ups.allows(SET_UP_SECONDS):
            return self._encode(pixels, key, self._ops)
        ops = self._new_ops(True)
        output = self._encode(pixels, key, ops)
        while len(self._warm) >= MOST_WARM:
            del self._warm[next(iter(self._warm))]
        self._warm[key] = ops
        self._set_ups.add(key)
        return output

    def _capture(self, key: tuple[Grid, ...], pixels: Tensor) -> VisionGraph:
        while len(self._graphs) >= MOST_GRAPHS:
            torch.cuda.synchronize(pixels.device)  # A replay of the evicted graph may be running.
            evicted = next(iter(self._graphs))
            del self._graphs[evicted]
            self._counts[evicted] = -PATIENCE
        ops = self._warm.pop(key)
        self._set_ups.spare = 0.0  # Nothing can be set up while kernels are captured.
        with capturing(pixels.device, self._memory) as graph:
            output = self._encode(pixels, key, ops)
        self._memory = graph.pool()
        return VisionGraph(graph, output, ops)
