"""Row-wise kernels around matrix products of many rows: RMSNorm, SwiGLU, gated residual. Rows are contiguous."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.launch import depend, early

BLOCK = 1024
"""Columns of a program in kernels without a reduction over the row."""


@triton.jit
def tanh(x):
    """tanh; near zero by its Taylor series, where the quotient cancels."""
    small = x * (1 - x * x * (1 / 3 - x * x * (2 / 15 - x * x * 17 / 315)))
    e = tl.exp(-2 * tl.abs(x))
    large = (1 - e) / (1 + e)
    return tl.where(tl.abs(x) < 0.1, small, tl.where(x < 0, -large, large))


@triton.jit
def silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def _rms_norm_kernel(x, weight, out, eps, x_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    column = tl.arange(0, BLOCK)
    live = column < WIDTH
    scale = tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
    depend(EARLY)
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(x + row * x_stride + column, mask=live, other=0.0).to(tl.float32)
    y *= tl.rsqrt(tl.sum(y * y) / WIDTH + eps) * scale
    tl.store(out + row * WIDTH + column, y.to(out.dtype.element_ty), mask=live)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (rows, width) in float32, one program a row; 2 µs for 64 × 4096 on an H100, `F.rms_norm` 7 µs."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    if rows:
        block = triton.next_power_of_2(width)
        warps = min(8, max(1, block // 512))
        _rms_norm_kernel[(rows,)](
            x, weight, out, eps, x.stride(0), WIDTH=width, BLOCK=block, num_warps=warps, **early(x.device)
        )
    return out


@triton.jit
def _swiglu_kernel(x, added, out, width, ADDED: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    depend(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < width
    gate = tl.load(x + row * 2 * width + column, mask=live, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=live, other=0.0).to(tl.float32)
    if ADDED:
        gate += tl.load(added + row * 2 * width + column, mask=live, other=0.0).to(tl.float32)
        up += tl.load(added + row * 2 * width + width + column, mask=live, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (silu(gate) * up).to(out.dtype.element_ty), mask=live)


def swiglu(x: Tensor, added: Tensor | None = None) -> Tensor:
    """silu(first half) · second half of x, or of x + added, contiguous (rows, 2 · width) → (rows, width)."""
    rows, width = len(x), x.shape[1] // 2
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    if rows:
        _swiglu_kernel[(rows, triton.cdiv(width, BLOCK))](
            x, added, out, width, ADDED=added is not None, BLOCK=BLOCK, num_warps=4, **early(x.device)
        )
    return out


@triton.jit
def _gated_residual_kernel(
    x, residual, gate, sees, out, width, residual_stride, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    depend(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < width
    scale = tanh(tl.load(gate).to(tl.float32)) * tl.load(sees + row).to(tl.float32)
    y = tl.load(x + row * width + column, mask=live, other=0.0).to(tl.float32) * scale
    y += tl.load(residual + row * residual_stride + column, mask=live, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, y.to(out.dtype.element_ty), mask=live)


def gated_residual(x: Tensor, residual: Tensor, gate: Tensor, sees: Tensor) -> Tensor:
    """residual + tanh(gate) · sees · x, (rows, width); x is contiguous, gate (1,), sees (rows, 1)."""
    rows, width = x.shape
    out = torch.empty_like(x)
    if rows:
        grid = (rows, triton.cdiv(width, BLOCK))
        _gated_residual_kernel[grid](
            x, residual, gate, sees, out, width, residual.stride(0), BLOCK=BLOCK, num_warps=4, **early(x.device)
        )
    return out
