"""The executor of rank 0: whatever it does, it has the executors of the other ranks do, too.

They take the runner's calls as messages (`device.following`). Tensors go by collectives: what the tower has encoded,
and tokens that were drawn.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from weakref import finalize

from torch import Tensor

from mossvl.device.executor import Executor, Output
from mossvl.device.inputs import StepArrays, TextRows, VisionRows, to_device
from mossvl.device.scores import Scores
from mossvl.device.shares import encode_shares
from mossvl.device.tower import How, Size, Tower
from mossvl.model.modeling import MossVLLMHeadModel, MossVLModel
from mossvl.options.engine import EngineConfig
from mossvl.parallel.ranks import LeadingRanks


class LeadingExecutor(Executor):
    """An `Executor` of rank 0.

    Raises:
        EngineError: of every method: the group of ranks has ended.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig, ranks: LeadingRanks) -> None:
        self.leading, self.number, self.waits = ranks, ranks.next_number(), ranks.processes.waits
        finalize(self, ranks.dropped.append, self.number).atexit = False
        with self.telling("begin", config):
            super().__init__(model, config)

    def telling(self, name: str, *given: Any) -> AbstractContextManager[None]:
        """Have the other ranks call a method, while this one does the same."""
        return self.leading.telling(self.number, name, *given)

    def check(self) -> None:
        self.leading.check()

    def prepare(self, step: StepArrays) -> None:
        with self.telling("prepare", replace(step, vision=None, text=[])):
            super().prepare(step)

    def store_vision(self, rows: VisionRows, tokens: Tensor) -> None:
        with self.telling("store_vision", rows):
            super().store_vision(rows, self.leading.broadcast(tokens.contiguous()))

    def compute(self, rows: TextRows) -> Output:
        with self.telling("compute", rows):
            return super().compute(rows)

    def compute_scored(self, rows: TextRows) -> tuple[Output, Scores | None]:
        with self.telling("compute_scored", rows):
            return super().compute_scored(rows)

    def whole_logits(self, part: Tensor) -> Tensor | None:
        with self.telling("whole_logits"):
            return super().whole_logits(part)

    def set_last_tokens(self, slots: Tensor, tokens: Tensor) -> None:
        with self.telling("set_last_tokens", slots):
            super().set_last_tokens(slots, self.leading.broadcast(to_device(tokens, self.device).clone()))

    def warm_up(self, report: Callable[[int, int], None]) -> None:
        def going_on(done: int, total: int) -> None:
            self.leading.processes.waits.go_on()
            report(done, total)

        with self.telling("warm_up"):
            super().warm_up(going_on)


class SharedTower(Tower):
    """The vision tower of all ranks: rank 0's, which has the others encode their shares of frames."""

    def __init__(self, executor: LeadingExecutor, model: MossVLModel, fast: bool, graphs: bool) -> None:
        super().__init__(model, fast, graphs, executor.adapters)
        self._executor = executor

    def clear(self) -> None:
        with self._executor.telling("clear"):
            super().clear()

    def warm_up(self) -> None:
        with self._executor.telling("warm_up_tower"):
            super().warm_up()

    def encode(self, pixels: Tensor, sizes: Sequence[Size], how: How) -> Tensor:
        if len(sizes) < 2:
            return super().encode(pixels, sizes, how)
        ranks = self._executor.leading
        with self._executor.telling("encode", sizes, how, self.set_ups.spare):
            tokens = encode_shares(self, ranks, ranks.broadcast(pixels), sizes, how)
        assert tokens is not None
        return tokens
