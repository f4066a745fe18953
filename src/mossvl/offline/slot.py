"""The engine that a model owns."""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mossvl.engine.engine import Engine
from mossvl.options.engine import EngineConfig


class EngineSlot:
    """At most one engine, kept valid while the model's weights change. A copy of a model starts without an engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._places: tuple[object, ...] = ()
        self._versions = 0

    def engine(self, model: Any, config: EngineConfig | None = None) -> Engine:
        """Return the engine; a new one if it is missing or broken, or if `config` or the weights' storage differ.

        Raises:
            EngineError: weights have changed in place while live sessions are open.
        """
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
                # Weights changed in place (an optimizer step): cached keys, values and vision tokens are stale.
                old.clear_caches()
                self._versions = versions(model)
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
    """Return the storage, dtype and device of every weight."""
    return tuple((weight.data_ptr(), weight.dtype, weight.device) for weight in weights(model))


def versions(model: torch.nn.Module) -> int:
    """Return a count that grows whenever a weight changes in place."""
    return sum(0 if weight.is_inference() else weight._version for weight in weights(model))


def weights(model: torch.nn.Module) -> Iterator[Tensor]:
    """Yield parameters, and the buffers of quantized weights."""
    yield from model.parameters()
    yield from model.buffers()
