"""What weights in 4 bits, INT4 or NF4, need apart: the order of columns, dequantizing."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.codes import eight_numbers
from mossvl.kernels.launch import depend, early
from mossvl.quantization.nf4 import CODES


@cache
def table(device: torch.device) -> Tensor:
    """The numbers of the codes of NF4, float32."""
    return torch.tensor(CODES, dtype=torch.float32, device=device)


@triton.jit
def _spread_kernel(x, norm_weight, out, eps, x_stride, K: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr,
                   EARLY: tl.constexpr):  # fmt: skip
    column = tl.arange(0, BLOCK)
    live = column < K
    depend(EARLY)
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(x + row * x_stride + column, mask=live, other=0.0)
    if NORM:
        wide = y.to(tl.float32)
        wide *= tl.rsqrt(tl.sum(wide * wide) / K + eps)
        y = (wide * tl.load(norm_weight + column, mask=live, other=0.0).to(tl.float32)).to(y.dtype)
    tl.store(out + row * K + column % 8 * (K // 8) + column // 8, y, mask=live)


def spread(x: Tensor, norm: tuple[Tensor, float] | None = None) -> Tensor:
    """x (rows, in), or RMSNorm(x), with every eighth column side by side: first those of the first codes of words."""
    rows, inner = x.shape
    out = torch.empty(rows, inner, dtype=x.dtype, device=x.device)
    norm_weight, eps = norm or (None, 0.0)
    block = triton.next_power_of_2(inner)
    _spread_kernel[(rows,)](
        x, norm_weight, out, eps, x.stride(0), K=inner, NORM=norm is not None, BLOCK=block,
        num_warps=min(8, max(1, block // 512)), **early(x.device),
    )  # fmt: skip
    return out


@triton.jit
def _dequantize_kernel(
    words,
    scales,
    table,
    out,
    outs,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    EARLY: tl.constexpr,
):
    W: tl.constexpr = K // 8
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    k = tl.program_id(1) * BLOCK_W * 8 + tl.arange(0, BLOCK_W * 8)
    live, wide = (n < outs)[:, None], n.to(tl.int64)[:, None]
    block = tl.load(words + wide * W + w, mask=live & (w < W), other=0)
    scale = tl.load(scales + wide * GROUPS + w // (W // GROUPS), mask=live & (w < W), other=0.0)
    depend(EARLY)
    numbers = eight_numbers(block, KIND, table, tl.float32, ASSEMBLY)
    even = tl.join(tl.join(numbers[0] * scale, numbers[4] * scale), tl.join(numbers[2] * scale, numbers[6] * scale))
    odd = tl.join(tl.join(numbers[1] * scale, numbers[5] * scale), tl.join(numbers[3] * scale, numbers[7] * scale))
    dense = tl.reshape(tl.join(even, odd), (BLOCK_N, BLOCK_W * 8))
    tl.store(out + wide * K + k, dense.to(out.dtype.element_ty), mask=live & (k < K))


def dequantized(words: Tensor, scales: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """The weight, (out, in)."""
    outs, inner = len(words), words.shape[1] * 8
    out = torch.empty(outs, inner, dtype=dtype, device=words.device)
    block_n, block_w = 16, 32
    _dequantize_kernel[(triton.cdiv(outs, block_n), triton.cdiv(inner // 8, block_w))](
        words, scales, table(out.device), out, outs, K=inner, GROUPS=scales.shape[1], KIND=kind, BLOCK_N=block_n,
        BLOCK_W=block_w, ASSEMBLY=out.is_cuda and dtype == torch.bfloat16, num_warps=4, **early(out.device),
    )  # fmt: skip
    return out
