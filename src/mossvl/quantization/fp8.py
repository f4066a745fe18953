"""Linear maps with weights in FP8 (e4m3) and a scale for each output: FP8_DYNAMIC of compressed-tensors."""

import torch
from torch import Tensor

from mossvl.quantization.linear import QuantizedLinear

FP8_CAPABILITY = (8, 9)
"""The least compute capability of GPUs that convert FP8."""
LARGEST = torch.finfo(torch.float8_e4m3fn).max
"""448, what the largest weight of an output becomes."""


class Fp8Linear(QuantizedLinear):
    """weight float8_e4m3fn (out, in) times weight_scale bfloat16 (out, 1).

    The format has activations quantized for each token, too; the reference here leaves them as they are.
    """

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, scale_dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.float8_e4m3fn))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=scale_dtype))

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        return (self.weight.float() * self.weight_scale.float()).to(dtype)

    def _put(self, start: int, rows: Tensor) -> None:
        weight, scale = quantized(rows)
        self.weight[start : start + len(rows)] = weight
        self.weight_scale[start : start + len(rows)] = scale


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows, (rows, in features), to (float8_e4m3fn of their shape, bfloat16 scales (rows, 1)).

    The bytes are those of the package compressed_tensors on a CPU: the scale is amax / 448, in bfloat16; rows are
    divided by it in bfloat16, and rounded to the nearest. A row of zeros has the scale eps.
    """
    rows = rows.to(torch.bfloat16)
    # A number would be a factor 1 / 448 on a GPU, a tensor divides.
    scale = rows.abs().amax(1, keepdim=True) / torch.full((1, 1), LARGEST, dtype=rows.dtype, device=rows.device)
    scale = torch.where(scale == 0, torch.finfo(rows.dtype).eps, scale)
    return (rows / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale
