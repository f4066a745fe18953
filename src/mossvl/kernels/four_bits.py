"""What weights in 4 bits, INT4 or NF4, need apart: the product of one row, the order of columns, dequantizing."""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.blocks import OneRow
from mossvl.kernels.codes import eight_numbers, eighths
from mossvl.kernels.elementwise import silu, tanh
from mossvl.kernels.launch import depend, early
from mossvl.quantization.nf4 import CODES


@cache
def table(device: torch.device) -> Tensor:
    """The numbers of the codes of NF4, float32."""
    return torch.tensor(CODES, dtype=torch.float32, device=device)


@triton.jit
def _dot(words, row, KIND: tl.constexpr, table, ASSEMBLY: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr):
    """Sums over the 32 codes of four words, times the columns of `row`: (BLOCK_N, BLOCK_W / 4)."""
    numbers = eight_numbers(words, KIND, table, tl.float32, ASSEMBLY)
    sums = numbers[0] * row[0][None, :]
    for j in tl.static_range(1, 8):
        sums += numbers[j] * row[j][None, :]
    return tl.sum(tl.reshape(sums, (BLOCK_N, BLOCK_W // 4, 4)), 2)


@triton.jit
def _one_row_kernel(
    x,
    norm_weight,
    words,
    scales,
    table,
    residual,
    gate,
    sees,
    out,
    eps,
    outs,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    KIND: tl.constexpr,
    NORM: tl.constexpr,
    PAIR: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One row of x: BLOCK_N outputs a program, products in float32. PAIR gives silu(output n) · output (outs + n)."""
    W: tl.constexpr = K // 8
    FOURS: tl.constexpr = W // 4  # Four words have one scale.
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = n < outs
    k = tl.arange(0, BLOCK_W)
    four = tl.arange(0, BLOCK_W // 4)
    column = k[:, None] * 8 + tl.arange(0, 8)
    w = words + n.to(tl.int64)[:, None] * W + k
    up = w + tl.cast(outs, tl.int64) * W
    scale = scales + n.to(tl.int64)[:, None] * GROUPS
    scale_up = scale + tl.cast(outs, tl.int64) * GROUPS
    # Prefetch: the first block of weights loads before `depend`, each later block before its predecessor is used.
    block = tl.load(w, mask=live[:, None] & (k < W), other=0)
    block_up = block
    if PAIR:
        block_up = tl.load(up, mask=live[:, None] & (k < W), other=0)
    depend(EARLY)
    acc = tl.zeros([BLOCK_N, BLOCK_W // 4], tl.float32)
    acc_up = tl.zeros([BLOCK_N, BLOCK_W // 4], tl.float32)
    squares = tl.zeros([BLOCK_W, 8], tl.float32)
    for start in range(0, W, BLOCK_W):
        more = live[:, None] & (start + BLOCK_W < W if W % BLOCK_W == 0 else start + BLOCK_W + k < W)
        next_block = tl.load(w + start + BLOCK_W, mask=more, other=0)
        next_up = next_block
        if PAIR:
            next_up = tl.load(up + start + BLOCK_W, mask=more, other=0)
        columns = start * 8 + column
        row = tl.load(x + columns, mask=columns < K, other=0.0).to(tl.float32)
        if NORM:
            squares += row * row
            row *= tl.load(norm_weight + columns, mask=columns < K, other=0.0).to(tl.float32)
        parts = eighths(row, BLOCK_W)
        group = (start // 4 + four) // (FOURS // GROUPS)
        inside = live[:, None] & (start // 4 + four < FOURS)
        factor = tl.load(scale + group, mask=inside, other=0.0)
        acc += _dot(block, parts, KIND, table, ASSEMBLY, BLOCK_N, BLOCK_W) * factor
        if PAIR:
            factor = tl.load(scale_up + group, mask=inside, other=0.0)
            acc_up += _dot(block_up, parts, KIND, table, ASSEMBLY, BLOCK_N, BLOCK_W) * factor
        block, block_up = next_block, next_up
    y, y_up = tl.sum(acc, 1), tl.sum(acc_up, 1)
    if NORM:
        root = tl.rsqrt(tl.sum(squares) / K + eps)
        y *= root
        y_up *= root
    if PAIR:
        y = silu(y) * y_up
    if GATED:
        y *= tanh(tl.load(gate).to(tl.float32)) * tl.load(sees).to(tl.float32)
    if RESIDUAL:
        y += tl.load(residual + n, mask=live, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=live)


def one_row(
    x: Tensor,
    norm: tuple[Tensor, float] | None,
    words: Tensor,
    scales: Tensor,
    operands: tuple[Tensor | None, ...],
    out: Tensor,
    chosen: OneRow,
    **flags: Any,
) -> None:
    """x (1, in) @ weight.T into out (1, outs), as `kernels.quantized.stream`; operands are residual, gate and sees."""
    norm_weight, eps = norm or (None, 0.0)
    width = min(chosen.inner, triton.next_power_of_2(x.shape[1]))
    _one_row_kernel[(triton.cdiv(out.shape[1], chosen.outs),)](
        x, norm_weight, words, scales, table(x.device), *operands, out, eps, out.shape[1], NORM=norm is not None,
        BLOCK_N=chosen.outs, BLOCK_W=width // 8, num_warps=chosen.warps, **flags,
    )  # fmt: skip


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
