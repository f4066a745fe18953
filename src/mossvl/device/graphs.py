"""Steps captured as CUDA graphs, so that nothing but one launch is left of them on the CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mossvl.device.capture import capturing
from mossvl.device.inputs import StepInputs, TextRows
from mossvl.device.triton_backend import prompt_tiles

PROMPT_ROWS = (32, 64, 96, 128, 160, 224)
"""Numbers of rows of steps with prompts; the last is for a chunk beside requests that decode."""
MOST_SEQUENCES = 16
"""Of a step with prompts."""


@dataclass(frozen=True)
class Kind:
    """Steps that share a graph: so many rows, at most so many tiles of prompts (0: all rows decode), vision or not."""

    rows: int
    tiles: int
    vision: bool


class StepGraphs:
    """Graphs of steps, one for each `Kind`, captured when it is first needed (`captured`).

    Args:
        step: from `StepInputs`, and tiles of prompts (tiles, 3) int32 or None, to (logits, likeliest tokens); called
            while a graph is captured.
    """

    def __init__(
        self, max_batch: int, device: torch.device, step: Callable[[StepInputs, Tensor | None], tuple[Tensor, Tensor]]
    ) -> None:
        self.device, self._step = device, step
        self.decode_sizes = decode_sizes(max_batch)
        self._padding_slot = max_batch
        most = max(max_batch, *PROMPT_ROWS)
        self._rows = torch.zeros((6, most), dtype=torch.long, device=device)
        self._tiles = torch.zeros((most, 3), dtype=torch.int32, device=device)
        self._graphs: dict[Kind, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}
        self._outputs: dict[bool, tuple[Tensor, Tensor]] = {}
        self._memory: Any = None

    def kind_of(self, rows: TextRows) -> Kind | None:
        """The graph that these rows fit, or None."""
        vision = rows.sees
        count = len(rows.tokens)
        if not rows.num_prefill:
            return self.decode_kind(count, vision)
        # Keep one padding row: padded draws read its logits.
        size = next((size for size in PROMPT_ROWS if size > count), None)
        if size is None or len(rows.sequences) > MOST_SEQUENCES:
            return None
        return Kind(size, size // 32 + MOST_SEQUENCES, vision)

    def decode_kind(self, count: int, vision: bool) -> Kind:
        """The graph in which so many requests decode."""
        return Kind(next(size for size in self.decode_sizes if size >= count), 0, vision)

    def kinds(self) -> list[Kind]:
        """All there can be."""
        decode = [(size, 0) for size in self.decode_sizes]
        prompts = [(size, size // 32 + MOST_SEQUENCES) for size in PROMPT_ROWS]
        return [Kind(*size, vision) for size in (*decode, *prompts) for vision in (True, False)]

    def run(self, kind: Kind, rows: TextRows) -> tuple[Tensor, Tensor]:
        """Logits (draws, vocab) and the likeliest tokens (draws,) of a step; the logits are valid until the next run
        but one, so that a step may have two parts."""
        graph, (logits, tokens) = self.captured(kind)
        host = rows.packed(kind.rows, self._padding_slot)
        self._rows[:, : kind.rows].copy_(torch.from_numpy(host).pin_memory(), non_blocking=True)
        if kind.tiles:
            tiles = np.zeros((kind.tiles, 3), dtype=np.int32)
            own = prompt_tiles(rows.sequences)
            tiles[: len(own)] = own
            self._tiles[: kind.tiles].copy_(torch.from_numpy(tiles).pin_memory(), non_blocking=True)
        graph.replay()
        draws = len(rows.draw_rows)
        return logits[:draws], tokens[:draws]

    def captured(self, kind: Kind) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        """A graph, and what its replays put out."""
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(kind)
        return self._graphs[kind]

    def _capture(self, kind: Kind) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        self._rows.zero_()
        self._tiles.zero_()
        self._rows[4] = self._padding_slot  # While a graph is captured all rows are padding rows, which write nothing.
        draws, tiles = (MOST_SEQUENCES, self._tiles[: kind.tiles]) if kind.tiles else (None, None)

        def step() -> tuple[Tensor, Tensor]:
            return self._step(StepInputs.of(self._rows[:, : kind.rows], draws, kind.vision), tiles)

        # Kernels are compiled, and libraries set up, outside of the graph; on the stream of all other work, since
        # libraries keep memory for every stream.
        logits, _ = step()
        places = self._places(kind.tiles > 0, logits)
        with capturing(self.device, self._memory) as graph:
            logits, tokens = step()
            outputs = places[0][: len(logits)].copy_(logits), places[1][: len(tokens)].copy_(tokens)
        self._memory = graph.pool()
        return graph, outputs

    def _places(self, prompts: bool, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Where graphs put logits and tokens: one place for all that decode, one for all with prompts.

        Each graph's own logits would add up to more than a gigabyte; and graphs share the memory that they work in, so
        that what one has left there may be gone after another has run.
        """
        if prompts not in self._outputs:
            most = MOST_SEQUENCES if prompts else self.decode_sizes[-1]
            tokens = torch.empty(most, dtype=torch.long, device=self.device)
            self._outputs[prompts] = logits.new_empty((most, logits.shape[1])), tokens
        return self._outputs[prompts]


def decode_sizes(max_batch: int) -> list[int]:
    """Numbers of rows for which there are graphs: few rows of filling, and not too many graphs."""
    steps = [1, 2, 4, 8, 16, 24, 32, 48, 64, *range(96, max_batch + 32, 32)]
    return [size for size in steps if size < max_batch] + [max_batch]
