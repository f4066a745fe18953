"""Products with fused weights: linears of the same input are one product, with norm, activation or residual fused in.

Only a `FusedWeight` knows the dtype and scales of its weight, and how rows are multiplied by it. The backend finds a
fused weight by the linears' modules. A new kind of weight is a class of modules, and one entry in the table of kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn
from transformers.activations import ACT2FN

from mossvl.model.layers import MLP, PlainProducts, RMSNorm

SILU = type(ACT2FN["silu"])


class FusedWeight(Protocol):
    """The weight of linears with the same input x, (rows, in features); results have x's dtype."""

    def project(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        """All linears of x, or of norm(x), side by side: (rows, sum of out features)."""
        ...

    def swiglu(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """silu(gate(norm(x))) · up(norm(x)), (rows, out features), if the two linears are gate and up."""
        ...

    def add(self, residual: Tensor, x: Tensor, gate: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
        """residual + linear(x), or residual + tanh(gate) · sees · linear(x), for a single linear.

        gate is (1,), sees (rows, 1).
        """
        ...


Fuse = Callable[[Sequence[nn.Module]], FusedWeight | None]
"""Fuses linears of one class; None if they cannot be fused, and each is computed by its own module."""


class FusedWeights:
    """Cache of fused weights, by modules; valid while parameters keep their storage.

    Args:
        kinds: how linears are fused, by their exact class; linears of other classes, or of several, are not fused.
    """

    def __init__(self, kinds: Mapping[type[nn.Module], Fuse]) -> None:
        self._kinds = kinds
        self._found: dict[tuple[nn.Module, ...], FusedWeight | None] = {}

    def of(self, *linears: nn.Module) -> FusedWeight | None:
        """The fused weight of these linears; None if they are not fused."""
        if linears not in self._found:
            classes = {type(one) for one in linears}
            fuse = self._kinds.get(classes.pop()) if len(classes) == 1 else None
            self._found[linears] = fuse(linears) if fuse is not None else None
        return self._found[linears]


class FusedProducts(PlainProducts):
    """`Products` with fused weights; linears that have none are computed by their modules."""

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
