"""Products of many rows in 8 bits (W8A8): x is quantized as well, each row by a scale of its own."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.launch import depend, early

LARGEST = tl.constexpr(448.0)
ABLE = {9, 10}
"""Major compute capabilities whose products take a scale for each row and each output."""


@triton.jit
def _quantize_rows_kernel(
    x, norm_weight, out, scales, eps, x_stride, K: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    live = column < K
    depend(EARLY)
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(x + row * x_stride + column, mask=live, other=0.0).to(tl.float32)
    if NORM:
        root = tl.rsqrt(tl.sum(y * y) / K + eps)
        y *= root * tl.load(norm_weight + column, mask=live, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(y)), 1e-12) / LARGEST
    tl.store(scales + row, scale)
    y = tl.minimum(tl.maximum(y / scale, -LARGEST), LARGEST)
    tl.store(out + row * K + column, y.to(tl.float8e4nv), mask=live)


def quantize_rows(x: Tensor, norm: tuple[Tensor, float] | None = None) -> tuple[Tensor, Tensor]:
    """Quantize rows of x (rows, in), or of RMSNorm(x), each by its own scale: one program a row.

    Args:
        norm: weight (in,) and epsilon.

    Returns:
        float8_e4m3fn (rows, in); float32 scales (rows, 1).
    """
    rows, inner = x.shape
    out = torch.empty(rows, inner, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    norm_weight, eps = norm or (None, 0.0)
    block = triton.next_power_of_2(inner)
    _quantize_rows_kernel[(rows,)](
        x, norm_weight, out, scales, eps, x.stride(0), K=inner, NORM=norm is not None, BLOCK=block,
        num_warps=min(16, max(1, block // 1024)), **early(x.device),
    )  # fmt: skip
    return out, scales


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether the device multiplies rows of x by a weight in 8 bits."""
    if weight.dtype != torch.float8_e4m3fn or x.dtype != torch.bfloat16 or not x.is_cuda or not len(x):
        return False
    if any(size % 16 for size in weight.shape):
        return False
    return torch.cuda.get_device_capability(x.device)[0] in ABLE


def product(x: Tensor, weight: Tensor, scales: Tensor, norm: tuple[Tensor, float] | None = None) -> Tensor:
    """x @ (scales · weight).T, or RMSNorm(x) instead of x → (rows, out).

    Args:
        x: (rows, in).
        weight: float8_e4m3fn (out, in).
        scales: float32 (out, 1).
        norm: weight (in,) and epsilon.
    """
    rows, row_scales = quantize_rows(x, norm)
    # At 12,288 columns, sums of the fast accumulation have too few bits.
    return torch._scaled_mm(
        rows, weight.T, scale_a=row_scales, scale_b=scales.T, out_dtype=x.dtype, use_fast_accum=False
    )
