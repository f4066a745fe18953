"""Linear maps with weights of 4-bit integers and a scale for each group: `pack-quantized` of compressed-tensors."""

import torch
from torch import Tensor

from mossvl.quantization.linear import QuantizedLinear, check_divides

GROUPS = (128, 64, 32)
"""Numbers of adjacent weights of an output that may share a scale; the first is what is used where it divides."""
PER_WORD = 8
"""Values in an int32."""
DIVISORS = tuple(7 + step / 4 for step in range(13))
"""A group's scale is its largest magnitude over one of these: what is beyond -8 … 7 is cut off."""


class Int4Linear(QuantizedLinear):
    """Integers from -8 to 7, (out, in), times weight_scale bfloat16 (out, in / group).

    weight_packed, int32 (out, in / 8), holds the integers plus 8: value j of a word in its bits 4j to 4j + 3.

    Raises:
        CheckpointError: the in features are not a multiple of the group.
    """

    weight_packed: Tensor
    weight_scale: Tensor

    def __init__(
        self, in_features: int, out_features: int, group: int = GROUPS[0], scale_dtype: torch.dtype = torch.bfloat16
    ) -> None:
        check_divides(group, in_features, f"INT4 in groups of {group}")
        super().__init__(in_features, out_features)
        self.group = group
        self.register_buffer("weight_packed", torch.empty(out_features, in_features // PER_WORD, dtype=torch.int32))
        self.register_buffer("weight_scale", torch.empty(out_features, in_features // group, dtype=scale_dtype))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """`weight_packed`, for those who ask a linear map for the device of its weight, as PEFT does."""
        return self.weight_packed

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        return dequantized(self.weight_packed, self.weight_scale).to(dtype)

    def _put(self, start: int, rows: Tensor) -> None:
        packed, scale = quantized(rows, self.group)
        self.weight_packed[start : start + len(rows)] = packed
        self.weight_scale[start : start + len(rows)] = scale


def dequantized(packed: Tensor, scale: Tensor) -> Tensor:
    """Return float32 (out, in) of packed integers (out, in / 8) and scales (out, groups)."""
    bits = torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
    values = ((packed[..., None] >> bits) & 15).sub_(8).to(torch.float32)
    return (values.view(*scale.shape, -1) * scale[..., None].float()).view(len(packed), -1)


def quantized(rows: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Quantize rows, (rows, in features), to (packed int32 (rows, in / 8), bfloat16 scales (rows, in / group)).

    A group's scale is the one of `DIVISORS` with the least sum of squared errors, the smallest divisor of equal ones.
    """
    values = rows.to(torch.float32).view(len(rows), -1, group)
    amax = values.abs().amax(2, keepdim=True)
    best = torch.full_like(amax, torch.inf)
    scale = _scale(amax, DIVISORS[0])  # Where no error is finite: a value that is no number makes its group none.
    for divisor in DIVISORS:
        tried = _scale(amax, divisor)
        error = (_rounded(values, tried).mul_(tried).sub_(values)).square_().sum(2, keepdim=True)
        better = error < best
        best, scale = torch.where(better, error, best), torch.where(better, tried, scale)
    integers = _rounded(values, scale).view(len(rows), -1, PER_WORD).to(torch.int32).add_(8)
    bits = torch.arange(0, 32, 4, dtype=torch.int32, device=rows.device)
    return (integers << bits).sum(2, dtype=torch.int32), scale[..., 0].to(torch.bfloat16)


def _scale(amax: Tensor, divisor: float) -> Tensor:
    """Return scales that bfloat16 holds, in float32; that of a group of zeros is eps."""
    scale = (amax / torch.full_like(amax, divisor)).to(torch.bfloat16)
    return torch.where(scale == 0, torch.finfo(torch.bfloat16).eps, scale).float()


def _rounded(values: Tensor, scale: Tensor) -> Tensor:
    return (values / scale).round_().clamp_(-8, 7)
