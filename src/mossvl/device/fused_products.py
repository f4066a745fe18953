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

    def swiglu(self, x: Tensor, norm: RMSNorm, added: Tensor | None = None) -> Tensor:
        """silu(gate(norm(x))) · up(norm(x)), (rows, out features), if the two linears are gate and up.

        `added` (rows, sum of out features) is added to both before.
        """
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


class LowRankRows(Protocol):
    """The adapters of packed rows: what each row's adapter adds to the products of linears with the same input."""

    def add(
        self,
        y: Tensor,
        x: Tensor,
        linears: Sequence[nn.Module],
        norm: RMSNorm | None = None,
        gate: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> None:
        """Add to y (rows, sum of out features) in place; with a gate (1,), tanh(gate) · sees (rows, 1) times that."""
        ...

    def alone(self, x: Tensor, linears: Sequence[nn.Module], norm: RMSNorm) -> Tensor | None:
        """What `add` would add, zeros in rows without an adapter; None if no adapter has these linears."""
        ...


class FusedProducts(PlainProducts):
    """`Products` with fused weights; linears that have none are computed by their modules.

    Args:
        adapted: adds what the rows' adapters do; None if no row has one.
    """

    def __init__(self, weights: FusedWeights, adapted: LowRankRows | None = None) -> None:
        self._weights, self._adapted = weights, adapted

    def linears(self, x: Tensor, linears: Sequence[nn.Module]) -> list[Tensor]:
        results = super().linears(x, linears)
        if self._adapted is not None:
            for y, linear in zip(results, linears, strict=True):
                self._adapted.add(y, x, (linear,))
        return results

    def project(self, x: Tensor, linears: Sequence[nn.Linear], norm: RMSNorm | None = None) -> list[Tensor]:
        weight = self._weights.of(*linears)
        if weight is None:
            return super().project(x, linears, norm)
        y = weight.project(x, norm)
        if self._adapted is not None:
            self._adapted.add(y, x, linears, norm)
        return list(y.split([one.out_features for one in linears], dim=-1))

    def swiglu(self, x: Tensor, norm: RMSNorm, mlp: MLP) -> Tensor:
        pair = mlp.gate_proj, mlp.up_proj
        weight = self._weights.of(*pair) if isinstance(mlp.act_fn, SILU) else None
        if weight is None:
            return super().swiglu(x, norm, mlp)
        # The product itself takes what is added, so that rows without an adapter are computed as without adapters.
        added = None if self._adapted is None else self._adapted.alone(x, pair, norm)
        return weight.swiglu(x, norm) if added is None else weight.swiglu(x, norm, added)

    def add(self, residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
        weight = self._weights.of(linear)
        if weight is None:
            return super().add(residual, x, linear)
        y = weight.add(residual, x)
        if self._adapted is not None:
            self._adapted.add(y, x, (linear,))
        return y

    def add_gated(self, residual: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor, sees: Tensor) -> Tensor:
        weight = self._weights.of(linear)
        if weight is None:
            return super().add_gated(residual, x, linear, gate, sees)
        y = weight.add(residual, x, gate, sees)
        if self._adapted is not None:
            self._adapted.add(y, x, (linear,), gate=gate, sees=sees)
        return y
