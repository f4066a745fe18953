"""Matrix products fused with RMSNorm before, and SwiGLU or residual after.

Weights are (out, in), contiguous. With few rows, products are bound by the bandwidth of reading weights: one fused
kernel streams them. With more rows, PyTorch's matrix product runs between elementwise kernels.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels import blocks
from mossvl.kernels.elementwise import gated_residual, rms_norm, silu, swiglu, tanh
from mossvl.kernels.launch import depend, early, precision, prefetch

FEW_ROWS = 32
"""Most rows for the fused kernels; with 64 rows, PyTorch's product was faster on an H100."""


@triton.jit(do_not_specialize=["ahead"])
def _one_row_kernel(
    x,
    norm_weight,
    weight,
    residual,
    gate,
    sees,
    out,
    eps,
    outs,
    ahead,
    K: tl.constexpr,
    NORM: tl.constexpr,
    PAIR: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One row of x: BLOCK_N outputs a program, products in float32. PAIR gives silu(output n) · output (outs + n).

    The residual of a PAIR is (rows, 2 · outs), added before SiLU.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = n < outs
    k = tl.arange(0, BLOCK_K)
    w = weight + n.to(tl.int64)[:, None] * K + k
    up = w + tl.cast(outs, tl.int64) * K
    if EARLY:
        if ahead >= 0:
            begin = (tl.program_id(0) + ahead) * BLOCK_N
            if begin < outs:
                row_bytes: tl.constexpr = K * weight.dtype.element_ty.primitive_bitwidth // 8
                prefetch(weight + begin.to(tl.int64) * K, tl.minimum(BLOCK_N, outs - begin), row_bytes, row_bytes)
    # Prefetch: the first block of weights loads before `depend`, each later block before its predecessor is used.
    block = tl.load(w, mask=live[:, None] & (k < K), other=0.0)
    if PAIR:
        block_up = tl.load(up, mask=live[:, None] & (k < K), other=0.0)
    depend(EARLY)
    # Sum the 8 neighbours of one thread's vector load at once: fewer registers, higher occupancy.
    acc = tl.zeros([BLOCK_N, BLOCK_K // 8], tl.float32)
    acc_up = tl.zeros([BLOCK_N, BLOCK_K // 8], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    for start in range(0, K, BLOCK_K):
        more = live[:, None] & (start + BLOCK_K < K if K % BLOCK_K == 0 else start + BLOCK_K + k < K)
        next_block = tl.load(w + start + BLOCK_K, mask=more, other=0.0)
        if PAIR:
            next_up = tl.load(up + start + BLOCK_K, mask=more, other=0.0)
        row = tl.load(x + start + k, mask=start + k < K, other=0.0).to(tl.float32)
        if NORM:
            squares += row * row
            row *= tl.load(norm_weight + start + k, mask=start + k < K, other=0.0).to(tl.float32)
        acc += tl.sum(tl.reshape(block.to(tl.float32) * row, (BLOCK_N, BLOCK_K // 8, 8)), 2)
        block = next_block
        if PAIR:
            acc_up += tl.sum(tl.reshape(block_up.to(tl.float32) * row, (BLOCK_N, BLOCK_K // 8, 8)), 2)
            block_up = next_up
    y = tl.sum(acc, 1)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares) / K + eps)
        y *= scale
    if PAIR:
        y_up = tl.sum(acc_up, 1) * scale
        if RESIDUAL:
            y += tl.load(residual + n, mask=live, other=0.0).to(tl.float32)
            y_up += tl.load(residual + outs + n, mask=live, other=0.0).to(tl.float32)
        y = silu(y) * y_up
    if GATED:
        y *= tanh(tl.load(gate).to(tl.float32)) * tl.load(sees).to(tl.float32)
    if RESIDUAL and not PAIR:
        y += tl.load(residual + n, mask=live, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["rows", "fetched"])
def _few_rows_kernel(
    x,
    norm_weight,
    weight,
    residual,
    gate,
    sees,
    out,
    eps,
    rows,
    outs,
    x_stride,
    residual_stride,
    fetched,
    K: tl.constexpr,
    NORM: tl.constexpr,
    PAIR: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Up to BLOCK_M rows of x: BLOCK_N outputs a program. Weights are the left operand of `tl.dot`.

    PAIR, and its residual, are those of `_one_row_kernel`.
    """
    if EARLY:
        if fetched > 0:
            begin = tl.program_id(0) * BLOCK_N
            begun = weight + begin.to(tl.int64) * K
            row_bytes: tl.constexpr = K * weight.dtype.element_ty.primitive_bitwidth // 8
            prefetch(begun, tl.minimum(BLOCK_N, outs - begin), row_bytes, fetched)
            if PAIR:
                prefetch(begun + tl.cast(outs, tl.int64) * K, tl.minimum(BLOCK_N, outs - begin), row_bytes, fetched)
    depend(EARLY)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    live, real = n < outs, m < rows
    k = tl.arange(0, BLOCK_K)
    w = weight + n.to(tl.int64)[:, None] * K + k
    up = w + tl.cast(outs, tl.int64) * K
    row = x + m[:, None] * x_stride + k
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    acc_up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    squares = tl.zeros([BLOCK_M], tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        inside = start + k < K
        block = tl.load(w + start, mask=live[:, None] & inside, other=0.0)
        tile = tl.load(row + start, mask=real[:, None] & inside, other=0.0)
        if NORM:
            wide = tile.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            tile = (wide * tl.load(norm_weight + start + k, mask=inside, other=0.0).to(tl.float32)).to(tile.dtype)
        acc = tl.dot(block, tile.T, acc, input_precision=PRECISION)
        if PAIR:
            block_up = tl.load(up + start, mask=live[:, None] & inside, other=0.0)
            acc_up = tl.dot(block_up, tile.T, acc_up, input_precision=PRECISION)
    y = acc
    if NORM:
        scale = tl.rsqrt(squares / K + eps)
        y *= scale
        acc_up *= scale
    mask = live[:, None] & real
    if RESIDUAL:
        added = residual + m * residual_stride + n[:, None]
    if PAIR:
        if RESIDUAL:
            y += tl.load(added, mask=mask, other=0.0).to(tl.float32)
            acc_up += tl.load(added + outs, mask=mask, other=0.0).to(tl.float32)
        y = silu(y) * acc_up
    if GATED:
        y *= tanh(tl.load(gate).to(tl.float32)) * tl.load(sees + m, mask=real, other=0.0).to(tl.float32)
    if RESIDUAL and not PAIR:
        y += tl.load(added, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + m * outs + n[:, None], y.to(out.dtype.element_ty), mask=mask)


def _stream(
    x: Tensor,
    weight: Tensor,
    norm: tuple[Tensor, float] | None = None,
    pair: bool = False,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    sees: Tensor | None = None,
) -> Tensor:
    """x @ weight.T for up to FEW_ROWS rows, by a fused kernel."""
    rows, inner = x.shape
    outs = len(weight) // 2 if pair else len(weight)
    out = torch.empty(rows, outs, dtype=x.dtype, device=x.device)
    product = blocks.Product(outs, inner, norm is not None, pair)
    flags: dict[str, Any] = {
        "K": inner,
        "NORM": norm is not None,
        "PAIR": pair,
        "RESIDUAL": residual is not None,
        "GATED": gate is not None,
        **early(x.device),
    }
    norm_weight, eps = norm or (None, 0.0)
    whole = triton.next_power_of_2(inner)
    if rows == 1:
        one = blocks.one_row(x.device, product, x.dtype)
        _one_row_kernel[(triton.cdiv(outs, one.outs),)](
            x, norm_weight, weight, residual, gate, sees, out, eps, outs, one.ahead,
            BLOCK_N=one.outs, BLOCK_K=min(one.inner, whole), num_warps=one.warps, **flags,
        )  # fmt: skip
        return out
    few = blocks.few_rows(x.device, rows, product, x.dtype)
    if norm is not None and few.apart:
        x, norm_weight = rms_norm(x, *norm), None
        flags["NORM"] = False
    _few_rows_kernel[(triton.cdiv(outs, few.outs),)](
        x, norm_weight, weight, residual, gate, sees, out, eps, rows, outs, x.stride(0),
        0 if residual is None else residual.stride(0), min(few.fetched, inner * weight.element_size()),
        BLOCK_M=max(16, triton.next_power_of_2(rows)), BLOCK_N=few.outs, BLOCK_K=min(few.inner, whole),
        STAGES=few.stages, PRECISION=precision(x.dtype), num_warps=few.warps, **flags,
    )  # fmt: skip
    return out


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (rows, in) @ weight.T → (rows, out)."""
    if 0 < len(x) <= FEW_ROWS:
        return _stream(x, weight)
    return F.linear(x, weight)


def norm_linear(x: Tensor, norm_weight: Tensor, eps: float, weight: Tensor) -> Tensor:
    """RMSNorm(x) @ weight.T: x (rows, in), norm_weight (in,), weight (out, in) → (rows, out)."""
    if 0 < len(x) <= FEW_ROWS:
        return _stream(x, weight, norm=(norm_weight, eps))
    return F.linear(rms_norm(x, norm_weight, eps), weight)


def norm_swiglu(x: Tensor, norm_weight: Tensor, eps: float, gate_up: Tensor, added: Tensor | None = None) -> Tensor:
    """silu(RMSNorm(x) @ gate.T) · (RMSNorm(x) @ up.T): x (rows, in), norm_weight (in,) → (rows, intermediate).

    gate_up is (2 · intermediate, in), the gate's rows first; `added` (rows, 2 · intermediate) is added to products.
    """
    if 0 < len(x) <= FEW_ROWS:
        return _stream(x, gate_up, norm=(norm_weight, eps), pair=True, residual=added)
    return swiglu(F.linear(rms_norm(x, norm_weight, eps), gate_up), added)


def linear_residual(
    x: Tensor, weight: Tensor, residual: Tensor, gate: Tensor | None = None, sees: Tensor | None = None
) -> Tensor:
    """residual + x @ weight.T, or residual + tanh(gate) · sees · (x @ weight.T).

    Args:
        x: (rows, in).
        weight: (out, in).
        residual: (rows, out).
        gate: (1,).
        sees: (rows, 1), 0 for rows without vision; needed with `gate`.

    Returns:
        (rows, out), a new tensor.
    """
    if 0 < len(x) <= FEW_ROWS:
        return _stream(x, weight, residual=residual, gate=gate, sees=sees)
    if gate is None:
        return torch.addmm(residual, x, weight.T)
    assert sees is not None
    return gated_residual(F.linear(x, weight), residual, gate, sees)
