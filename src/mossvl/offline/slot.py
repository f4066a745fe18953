"""Where a model keeps its engine."""

import threading
from typing import Any

import torch

from mossvl.engine.engine import Engine
from mossvl.options.engine import EngineConfig


class EngineSlot:
    """At most one engine, which fits the model's weights as they are now. Copies of a model start with none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._places: tuple[object, ...] = ()
        self._versions = 0

    def engine(self, model: Any, config: EngineConfig | None = None) -> Engine:
        """The engine; a new one if there is none, if it is broken, for another config, or if weights have moved."""
        with self._lock:
            old = self._engine
            wanted = config or (old.config if old is not None else EngineConfig())
            if old is None or old.broken or old.config != wanted or self._places != places(model):
                if old is not None:
                    old.close()
                self._engine = old = None
                self._engine = Engine(model, wanted)
                self._places, self._versions = places(model), versions(model)
            elif self._versions != versions(model):
                # Weights were changed where they are, as by an optimizer: what they computed is of no use any more.
                self._versions = versions(model)
                old.clear_caches()
            assert self._engine is not None
            return self._engine

    def close(self) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None

    def __deepcopy__(self, memo: object) -> "EngineSlot":
        return EngineSlot()

    def __reduce__(self) -> tuple[type["EngineSlot"], tuple[()]]:
        return EngineSlot, ()


def places(model: torch.nn.Module) -> tuple[object, ...]:
    """Which tensors the weights are, and where."""
    return tuple((parameter.data_ptr(), parameter.dtype, parameter.device) for parameter in model.parameters())


def versions(model: torch.nn.Module) -> int:
    """Grows whenever a weight is changed in place."""
    return sum(0 if parameter.is_inference() else parameter._version for parameter in model.parameters())
