"""Linear maps with 8-bit integer weights and inputs, for CPUs, whose instructions multiply such integers."""

from functools import cache

import torch
from torch import Tensor

from mossvl.quantization.linear import QuantizedLinear

LARGEST = 127
FEW_ROWS = 24
"""Up to so many rows, PyTorch's product of integers is faster row by row: for more, it rearranges the weight."""
TINY = 1e-30
"""Least scale, that of zeros."""


class Int8Linear(QuantizedLinear):
    """weight int8 (out, in) times weight_scale float32 (out, 1).

    On a CPU, each row of x is quantized too, by a scale of its own, and the products of integers are exact: a row's
    result does not depend on other rows.
    """

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.float32))

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        return (self.weight.float() * self.weight_scale).to(dtype)

    def _put(self, start: int, rows: Tensor) -> None:
        codes, scale = quantized(rows)
        self.weight[start : start + len(rows)] = codes
        self.weight_scale[start : start + len(rows)] = scale

    def forward(self, x: Tensor) -> Tensor:
        trained = x.requires_grad and torch.is_grad_enabled()
        if trained or x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not multiplies_integers():
            return super().forward(x)
        codes, scale = quantized(x.reshape(-1, self.in_features))
        sums = self._sums(codes).float().mul_(scale).mul_(self.weight_scale.T)
        return sums.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _sums(self, codes: Tensor) -> Tensor:
        """Products of integers, int32 (rows, out)."""
        if len(codes) > FEW_ROWS:
            return torch._int_mm(codes, self.weight.T)
        sums = torch.empty(len(codes), self.out_features, dtype=torch.int32)
        for number in range(len(codes)):
            torch._int_mm(codes[number : number + 1], self.weight.T, out=sums[number : number + 1])
        return sums


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows, (rows, features), to (int8 of their shape, float32 scales (rows, 1)): amax / 127."""
    rows = rows.float()
    scale = (rows.abs().amax(1, keepdim=True) / LARGEST).clamp(min=TINY)
    return (rows / scale).round_().to(torch.int8), scale


@cache
def multiplies_integers() -> bool:
    """Whether PyTorch multiplies 8-bit integers exactly here: without the right instructions, sums may saturate."""
    signs = 1 - 2 * (torch.arange(256) % 3 == 0).int()
    codes = (LARGEST * torch.stack((signs, signs.abs()))).to(torch.int8)
    try:
        sums = torch._int_mm(codes, codes.T)
    except (RuntimeError, NotImplementedError):
        return False
    return torch.equal(sums.long(), codes.long() @ codes.long().T)
