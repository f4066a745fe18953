"""What a rank other than 0 does of the steps of its engines: carries out the calls that come as messages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mossvl.device.executor import Executor
from mossvl.device.inputs import StepArrays, TextRows, VisionRows
from mossvl.device.shares import encode_shares
from mossvl.device.tower import How, Size, Tower
from mossvl.errors import CheckpointError, InputError
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options.engine import EngineConfig
from mossvl.parallel.ranks import Ranks


class Followers:
    """The followers of the executors of rank 0, by their numbers."""

    def __init__(self, model: MossVLLMHeadModel, ranks: Ranks) -> None:
        self._model, self._ranks = model, ranks
        self._by_number: dict[int, Follower] = {}

    def __call__(self, number: int, name: str, given: Sequence[Any]) -> None:
        """Carry out a message."""
        if name == "drop":
            self._by_number.pop(number, None)
        elif name == "begin":
            try:
                self._by_number[number] = Follower(self._model, self._ranks, *given)
            except (InputError, CheckpointError):  # Rank 0 refuses the settings, too.
                return
        else:
            getattr(self._by_number[number], name)(*given)


class Follower:
    """Follows a `LeadingExecutor` and its `SharedTower`; a method is what they tell."""

    def __init__(self, model: MossVLLMHeadModel, ranks: Ranks, config: EngineConfig) -> None:
        self.model, self.ranks = model, ranks
        self.executor = Executor(model, config)
        self.tower = Tower(model.model, self.executor.fast, not config.eager, self.executor.adapters)
        self.tower.set_up()
        self._logits: list[Tensor] = []

    def prepare(self, step: StepArrays) -> None:
        self._logits = []
        self.executor.prepare(step)

    def store_vision(self, rows: VisionRows) -> None:
        separator = self.model.model.separator_token
        tokens = separator.new_empty((len(rows.slots), len(separator)))
        self.executor.store_vision(rows, self.ranks.broadcast(tokens))

    def compute(self, rows: TextRows) -> None:
        self._logits.append(self.executor.compute(rows)[0])

    def compute_scored(self, rows: TextRows) -> None:
        self._logits.append(self.executor.compute_scored(rows)[0][0])

    def whole_logits(self) -> None:
        self.executor.whole_logits(torch.cat(self._logits))

    def set_last_tokens(self, slots: Tensor) -> None:
        tokens = torch.empty(len(slots), dtype=torch.long, device=self.executor.device)
        self.executor.set_last_tokens(slots, self.ranks.broadcast(tokens))

    def warm_up(self) -> None:
        self.executor.warm_up(lambda done, total: None)

    def warm_up_tower(self) -> None:
        self.tower.warm_up()

    def clear(self) -> None:
        self.tower.clear()

    def encode(self, sizes: Sequence[Size], how: How, spare: float) -> None:
        self.tower.set_ups.begin_step(spare)
        patches = sum(height * width for height, width in sizes)
        pixels = torch.empty((patches, self.tower.width), dtype=torch.uint8, device=self.executor.device)
        encode_shares(self.tower, self.ranks, self.ranks.broadcast(pixels), sizes, how)
