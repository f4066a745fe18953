"""Steps captured as CUDA graphs: the CPU launches a step once, not kernel by kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mossvl.device.capture import capturing
from mossvl.device.inputs import PACKED, StepInputs, TextRows
from mossvl.device.triton_backend import prefill_tiles
from mossvl.scheduling.pages import NO_ADAPTER

PREFILL_ROWS = (32, 64, 96, 128, 160, 224)
"""Numbers of rows of the graphs with prefill rows; the last fits a few short prompts beside decoding requests."""
MOST_SEQUENCES = 16
"""Maximum number of requests in a captured step with prefill rows."""


@dataclass(frozen=True)
class Kind:
    """What the steps that share a graph have in common.

    Attributes:
        rows: number of rows, padding rows included.
        tiles: maximum number of tiles of prefill rows; 0 if all rows decode.
        vision: cross-attention layers are computed.
        adapted: rows may have adapters.
    """

    rows: int
    tiles: int
    vision: bool
    adapted: bool = False


class StepGraphs:
    """CUDA graphs of steps, one for each `Kind`, captured at its first use.

    Args:
        step: what is captured: (`StepInputs`, tiles of prefill rows (tiles, 3) int32 or None) → (logits (draws, vocab),
            likeliest tokens (draws,) int64).
        adapters: rows may have adapters. Steps in which none has one are computed as without adapters.
    """

    def __init__(
        self,
        max_batch: int,
        device: torch.device,
        step: Callable[[StepInputs, Tensor | None], tuple[Tensor, Tensor]],
        adapters: bool = False,
    ) -> None:
        self.device, self._step, self._adapters = device, step, adapters
        self.decode_sizes = decode_sizes(max_batch)
        self._padding_slot = max_batch
        most = max(max_batch, *PREFILL_ROWS)
        self._rows = torch.zeros((PACKED, most), dtype=torch.long, device=device)
        self._tiles = torch.zeros((most, 3), dtype=torch.int32, device=device)
        self._graphs: dict[Kind, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}
        self._outputs: dict[bool, tuple[Tensor, Tensor]] = {}
        self._memory: Any = None

    def kind_of(self, rows: TextRows) -> Kind | None:
        """The kind of graph that fits these rows; None if none does."""
        vision = rows.sees
        count = len(rows.tokens)
        if rows.scored is not None:
            return None
        if not rows.num_prefill:
            return self.decode_kind(count, vision, rows.adapted)
        # Keep one padding row: padded draws read its logits.
        size = next((size for size in PREFILL_ROWS if size > count), None)
        if size is None or len(rows.sequences) > MOST_SEQUENCES:
            return None
        return Kind(size, size // 32 + MOST_SEQUENCES, vision, rows.adapted)

    def decode_kind(self, count: int, vision: bool, adapted: bool = False) -> Kind:
        """The smallest kind for `count` decoding requests."""
        return Kind(next(size for size in self.decode_sizes if size >= count), 0, vision, adapted)

    def kinds(self) -> list[Kind]:
        """All kinds."""
        decode = [(size, 0) for size in self.decode_sizes]
        prefill = [(size, size // 32 + MOST_SEQUENCES) for size in PREFILL_ROWS]
        adapted = (False, True) if self._adapters else (False,)
        return [Kind(*size, *how) for size in (*decode, *prefill) for how in product((True, False), adapted)]

    def run(self, kind: Kind, rows: TextRows) -> tuple[Tensor, Tensor]:
        """Replay a step → (logits (draws, vocab), likeliest tokens (draws,) int64).

        A run with prefill rows overwrites the outputs of the last such run; a run of decode rows, those of the last
        such run.
        """
        graph, (logits, tokens) = self.captured(kind)
        host = rows.packed(kind.rows, self._padding_slot)
        self._rows[:, : kind.rows].copy_(torch.from_numpy(host).pin_memory(), non_blocking=True)
        if kind.tiles:
            tiles = np.zeros((kind.tiles, 3), dtype=np.int32)
            own = prefill_tiles(rows.sequences)
            tiles[: len(own)] = own
            self._tiles[: kind.tiles].copy_(torch.from_numpy(tiles).pin_memory(), non_blocking=True)
        graph.replay()
        draws = len(rows.draw_rows)
        return logits[:draws], tokens[:draws]

    def captured(self, kind: Kind) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        """The graph of a kind, and the outputs that its replays write."""
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(kind)
        return self._graphs[kind]

    def _capture(self, kind: Kind) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        self._rows.zero_()
        self._tiles.zero_()
        self._rows[5], self._rows[6] = self._padding_slot, NO_ADAPTER  # All are padding rows, which store nothing.
        draws, tiles = (MOST_SEQUENCES, self._tiles[: kind.tiles]) if kind.tiles else (None, None)

        def step() -> tuple[Tensor, Tensor]:
            return self._step(StepInputs.of(self._rows[:, : kind.rows], draws, kind.vision, kind.adapted), tiles)

        # Warm-up: compile kernels, set up libraries. On the stream of all other work: libraries keep memory per stream.
        logits, _ = step()
        buffers = self._output_buffers(kind.tiles > 0, logits)
        with capturing(self.device, self._memory) as graph:
            logits, tokens = step()
            outputs = buffers[0][: len(logits)].copy_(logits), buffers[1][: len(tokens)].copy_(tokens)
        self._memory = graph.pool()
        return graph, outputs

    def _output_buffers(self, prefill: bool, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers of logits and tokens: one pair for all graphs with prefill rows, one for all others.

        Logits of each graph would add up to more than a gigabyte; in the memory pool that the graphs share, the next
        replay may overwrite them.
        """
        if prefill not in self._outputs:
            most = MOST_SEQUENCES if prefill else self.decode_sizes[-1]
            tokens = torch.empty(most, dtype=torch.long, device=self.device)
            self._outputs[prefill] = logits.new_empty((most, logits.shape[1])), tokens
        return self._outputs[prefill]


def decode_sizes(max_batch: int) -> list[int]:
    """Numbers of rows of the decode graphs, ascending: few padding rows, and not too many graphs."""
    steps = [1, 2, 4, 8, 16, 24, 32, 48, 64, *range(96, max_batch + 32, 32)]
    return [size for size in steps if size < max_batch] + [max_batch]
