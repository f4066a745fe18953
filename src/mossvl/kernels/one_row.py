"""The product of one row with weights in 8 and 4 bits."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.blocks import OneRow
from mossvl.kernels.codes import eight_numbers, eighths, four_numbers, quarters
from mossvl.kernels.elementwise import silu, tanh
from mossvl.kernels.launch import depend


@triton.jit
def _loaded(words, n, start, outs, W: tl.constexpr, BLOCK_W: tl.constexpr):
    """BLOCK_W words of rows n, from word `start` on."""
    w = start + tl.arange(0, BLOCK_W)
    mask = (n < outs)[:, None] & (w < W)
    return tl.load(words + n.to(tl.int64)[:, None] * W + w, mask=mask, other=0)


@triton.jit
def _scale_of_fours(scales, n, start, outs, W: tl.constexpr, GROUPS: tl.constexpr, BLOCK_W: tl.constexpr):
    """The scales of each four words of a block: they are the same for 32 codes."""
    four = start // 4 + tl.arange(0, BLOCK_W // 4)
    mask = (n < outs)[:, None] & (four < W // 4)
    return tl.load(scales + n.to(tl.int64)[:, None] * GROUPS + four // (W // 4 // GROUPS), mask=mask, other=0.0)


@triton.jit
def _columns(x, norm_weight, start, squares, K: tl.constexpr, BLOCK_W: tl.constexpr, KIND: tl.constexpr,
             NORM: tl.constexpr):  # fmt: skip
    """The columns of x for a block of words, times the norm's weight; of 4 bits, each place in a word apart."""
    CODES: tl.constexpr = 4 if KIND == "fp8" else 8
    column = (start + tl.arange(0, BLOCK_W))[:, None] * CODES + tl.arange(0, CODES)
    row = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)
    if NORM:
        squares += row * row
        row *= tl.load(norm_weight + column, mask=column < K, other=0.0).to(tl.float32)
    if KIND == "fp8":
        columns = quarters(row, BLOCK_W)
    else:
        columns = eighths(row, BLOCK_W)
    return columns, squares


@triton.jit
def _dot(block, columns, scale, KIND: tl.constexpr, table, ASSEMBLY: tl.constexpr, BLOCK_N: tl.constexpr,
         BLOCK_W: tl.constexpr):  # fmt: skip
    """Sums of four words' numbers times their columns: (BLOCK_N, BLOCK_W / 4)."""
    CODES: tl.constexpr = 4 if KIND == "fp8" else 8
    if KIND == "fp8":
        numbers = four_numbers(block, ASSEMBLY)
    else:
        numbers = eight_numbers(block, KIND, table, tl.float32, ASSEMBLY)
    sums = numbers[0] * columns[0][None, :]
    for j in tl.static_range(1, CODES):
        sums += numbers[j] * columns[j][None, :]
    sums = tl.sum(tl.reshape(sums, (BLOCK_N, BLOCK_W // 4, 4)), 2)
    if KIND != "fp8":
        sums *= scale
    return sums


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
    """One row of x: BLOCK_N outputs at a time, products in float32. PAIR gives silu(output n) · output (outs + n).

    The residual of a PAIR is (1, 2 · outs), added before SiLU.

    A program takes every so many-th block of outputs as there are programs. The first block of weights loads before
    `depend`, each later one, also of the next outputs, before its predecessor is used.
    """
    CODES: tl.constexpr = 4 if KIND == "fp8" else 8
    W: tl.constexpr = K // CODES
    WHOLE: tl.constexpr = W <= BLOCK_W
    stride = tl.num_programs(0) * BLOCK_N
    first = tl.program_id(0) * BLOCK_N
    n = first + tl.arange(0, BLOCK_N)
    up, scales_up = words + tl.cast(outs, tl.int64) * W, scales + tl.cast(outs, tl.int64) * GROUPS
    block = _loaded(words, n, 0, outs, W, BLOCK_W)
    block_up, scale, scale_up = block, 1.0, 1.0
    if PAIR:
        block_up = _loaded(up, n, 0, outs, W, BLOCK_W)
    if KIND != "fp8":
        scale = _scale_of_fours(scales, n, 0, outs, W, GROUPS, BLOCK_W)
        scale_up = scale
        if PAIR:
            scale_up = _scale_of_fours(scales_up, n, 0, outs, W, GROUPS, BLOCK_W)
    depend(EARLY)
    none = tl.zeros([BLOCK_W, CODES], tl.float32)
    if WHOLE:
        columns, squares = _columns(x, norm_weight, 0, none, K, BLOCK_W, KIND, NORM)
        root = tl.rsqrt(tl.sum(squares) / K + eps)
    if GATED:
        factor = tanh(tl.load(gate).to(tl.float32)) * tl.load(sees).to(tl.float32)
    for begin in range(first, outs, stride):
        n = begin + tl.arange(0, BLOCK_N)
        live = n < outs
        if RESIDUAL:
            added = tl.load(residual + n, mask=live, other=0.0).to(tl.float32)
            if PAIR:
                added_up = tl.load(residual + outs + n, mask=live, other=0.0).to(tl.float32)
        acc = tl.zeros([BLOCK_N, BLOCK_W // 4], tl.float32)
        acc_up = tl.zeros([BLOCK_N, BLOCK_W // 4], tl.float32)
        if not WHOLE:
            squares = none
        for start in tl.static_range(0, W, BLOCK_W):
            later, after = n, start + BLOCK_W
            if start + BLOCK_W >= W:
                later, after = n + stride, 0
            next_block = _loaded(words, later, after, outs, W, BLOCK_W)
            next_up, next_scale, next_scale_up = next_block, scale, scale_up
            if PAIR:
                next_up = _loaded(up, later, after, outs, W, BLOCK_W)
            if KIND != "fp8":
                next_scale = _scale_of_fours(scales, later, after, outs, W, GROUPS, BLOCK_W)
                next_scale_up = next_scale
                if PAIR:
                    next_scale_up = _scale_of_fours(scales_up, later, after, outs, W, GROUPS, BLOCK_W)
            if not WHOLE:
                columns, squares = _columns(x, norm_weight, start, squares, K, BLOCK_W, KIND, NORM)
            acc += _dot(block, columns, scale, KIND, table, ASSEMBLY, BLOCK_N, BLOCK_W)
            if PAIR:
                acc_up += _dot(block_up, columns, scale_up, KIND, table, ASSEMBLY, BLOCK_N, BLOCK_W)
            block, block_up, scale, scale_up = next_block, next_up, next_scale, next_scale_up
        y, y_up = tl.sum(acc, 1), tl.sum(acc_up, 1)
        if KIND == "fp8":
            y *= tl.load(scales + n, mask=live, other=0.0)
            if PAIR:
                y_up *= tl.load(scales_up + n, mask=live, other=0.0)
        if NORM:
            if not WHOLE:
                root = tl.rsqrt(tl.sum(squares) / K + eps)
            y *= root
            y_up *= root
        if PAIR:
            if RESIDUAL:
                y += added
                y_up += added_up
            y = silu(y) * y_up
        if GATED:
            y *= factor
        if RESIDUAL and not PAIR:
            y += added
        tl.store(out + n, y.to(out.dtype.element_ty), mask=live)


def one_row(
    x: Tensor,
    norm: tuple[Tensor, float] | None,
    stored: tuple[Tensor, ...],
    operands: tuple[Tensor | None, ...],
    out: Tensor,
    chosen: OneRow,
    **flags: Any,
) -> None:
    """x (1, in) @ weight.T into out (1, outs), as `kernels.quantized.stream`.

    `stored` are the weight's codes as int32 words, its scales, and the table of codes; operands are residual, gate and
    sees.
    """
    norm_weight, eps = norm or (None, 0.0)
    outs, codes = out.shape[1], 4 if flags["KIND"] == "fp8" else 8
    blocks = triton.cdiv(outs, chosen.outs)
    _one_row_kernel[(min(blocks, chosen.ahead) if chosen.ahead > 0 else blocks,)](
        x, norm_weight, *stored, *operands, out, eps, outs, NORM=norm is not None, BLOCK_N=chosen.outs,
        BLOCK_W=min(chosen.inner, triton.next_power_of_2(x.shape[1])) // codes, num_warps=chosen.warps, **flags,
    )  # fmt: skip
