"""Products whose weights are fused: maps that read the same rows are one product, with what surrounds it in one kernel.

What a weight is (its dtype, its scales, how rows are multiplied by it) is known to its `FusedWeight` alone. The backend
finds it by the modules of the maps; a new kind of weight is a class of modules, and one entry in the table of kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn
from transformers.activations import ACT2FN

from mossvl.model.layers import MLP, PlainProducts, RMSNorm

SILU = type(ACT2FN["silu"])


class FusedWeight(Protocol):
    """The weight of maps that read the same rows x, (rows, in); results are in x's dtype."""

    def project(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        """All maps of x, or of norm(x), side by side: (rows, sum of out features)."""
        ...

    def swiglu(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """Of two maps, gate and up: silu(gate(norm(x))) · up(norm(x)), (rows, out features)."""
        ...

    def add(self, residual: Tensor, x: Tensor, gate: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
        """Of one map: residual + map(x), or residual + tanh(gate) · sees · map(x); gate is (1,), sees (rows, 1)."""
        ...


Fuse = Callable[[Sequence[nn.Module]], FusedWeight | None]
"""From maps of one class to their fused weight; None if they cannot be one, so that each computes itself."""


class FusedWeights:
    """Cache of fused weights, by modules; valid while parameters keep their storage.

    Args:
        kinds: how maps of a class (exactly that one) are fused; maps of other classes, or of several, never are.
    """

    def __init__(self, kinds: Mapping[type[nn.Module], Fuse]) -> None:
        self._kinds = kinds
        self._found: dict[tuple[nn.Module, ...], FusedWeight | None] = {}

    def of(self, *maps: nn.Module) -> FusedWeight | None:
        """The fused weight of these maps, if there is one."""
        if maps not in self._found:
            classes = {type(one) for one in maps}
            fuse = self._kinds.get(classes.pop()) if len(classes) == 1 else None
            self._found[maps] = fuse(maps) if fuse is not None else None
        return self._found[maps]


class FusedProducts(PlainProducts):
    """The `Products` of fused weights; maps that have none compute themselves."""

    def __init__(self, weights: FusedWeights) -> None:
        self._weights = weights

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: RMSNorm | None = None) -> list[Tensor]:
        weight = self._weights.of(*linears)
        if weight is None:
            return super().project(x, linears, norm)
        return list(weight.project(x, norm).split([one.out_features for one in linears], dim=-1))

    def swiglu(self, x: Tensor, norm: RMSNorm, mlp: MLP) -> Tensor:
        weight = self._weights.of(mlp.gate_proj, mlp.up_proj) if isinstance(mlp.act_fn, SILU) else None
        return super().swiglu(x, norm, mlp) if weight is None else weight.swiglu(x, norm)

    def add(self, residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
        weight = self._weights.of(linear)
        return super().add(residual, x, linear) if weight is None else weight.add(residual, x)

    def add_gated(self, residual: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor, sees: Tensor) -> Tensor:
        weight = self._weights.of(linear)
        if weight is None:
            return super().add_gated(residual, x, linear, gate, sees)
        return weight.add(residual, x, gate, sees)
