"""Fused weights in 8 and 4 bits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mossvl.device.fusing import joined
from mossvl.kernels.elementwise import gated_residual, swiglu
from mossvl.kernels.fp8 import multiplies
from mossvl.kernels.linear import FEW_ROWS
from mossvl.kernels.quantized import Quantized, product, stream
from mossvl.model.layers import RMSNorm
from mossvl.quantization.fp8 import FP8_CAPABILITY
from mossvl.quantization.nf4 import BLOCK

FP8_ROWS = 16
"""Most rows for the fused kernels where the device multiplies FP8; with 32, its product was faster on an H200."""
FP8_VECTOR = 16
"""Weights that a thread loads at once."""


class QuantizedWeight:
    """The `FusedWeight` of quantized linears: a fused kernel for few rows, a product between kernels for many."""

    def __init__(self, weight: Quantized) -> None:
        self._weight = weight

    @classmethod
    def of_fp8(cls, linears: Sequence[nn.Module]) -> "QuantizedWeight | None":
        """None if weights do not lie side by side, if rows are no whole vectors, or if the device has no FP8."""
        found = joined(linears)
        if found is None or found[0].shape[1] % FP8_VECTOR:
            return None
        if torch.cuda.get_device_capability(found[0].device) < FP8_CAPABILITY:
            return None
        return cls(Quantized(found[0], found[1].float(), "fp8"))

    @classmethod
    def of_int4(cls, linears: Sequence[nn.Module]) -> "QuantizedWeight | None":
        """None if weights do not lie side by side."""
        found = joined(linears)
        return None if found is None else cls(Quantized(found[0], found[1].float(), "int4"))

    @classmethod
    def of_nf4(cls, linears: Sequence[nn.Module]) -> "QuantizedWeight | None":
        """None if weights do not lie side by side, or if a block goes beyond its row."""
        found = joined(linears)
        if found is None or found[0].shape[1] * 2 % BLOCK:
            return None
        weight, absmax = found
        return cls(Quantized(weight.view(torch.int32), absmax.view(len(weight), -1), "nf4"))

    def project(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        apart = None if norm is None else (norm.weight, norm.eps)
        return stream(x, self._weight, apart) if self._few(x) else product(x, self._weight, apart)

    def swiglu(self, x: Tensor, norm: RMSNorm, added: Tensor | None = None) -> Tensor:
        apart = norm.weight, norm.eps
        if self._few(x):
            return stream(x, self._weight, apart, pair=True, residual=added)
        return swiglu(product(x, self._weight, apart), added)

    def add(self, residual: Tensor, x: Tensor, gate: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
        if self._few(x):
            return stream(x, self._weight, residual=residual, gate=gate, sees=sees)
        y = product(x, self._weight)
        if gate is None:
            return y.add_(residual)
        assert sees is not None
        return gated_residual(y, residual, gate, sees)

    def _few(self, x: Tensor) -> bool:
        """Whether `stream` takes these rows: several only in bfloat16, of which assembly makes the numbers of codes."""
        if len(x) <= 1 or x.dtype != torch.bfloat16:
            return len(x) == 1
        return len(x) <= (FP8_ROWS if multiplies(x, self._weight.data) else FEW_ROWS)
