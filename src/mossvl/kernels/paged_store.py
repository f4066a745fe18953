"""QK norm, rotary embedding and storing of keys and values in pages, fused."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.launch import depend, early


@triton.jit
def _normed_and_rotated(x, heads, live, weight_first, weight_second, cos, sin, row, eps, D: tl.constexpr):
    """Return both halves of some heads of a row, normalised and rotated, float32. All loads come before any use.

    `x` points to the first head.
    """
    half = tl.arange(0, D // 2)
    first = tl.load(x + heads[:, None] * D + half, mask=live[:, None], other=0.0)
    second = tl.load(x + heads[:, None] * D + D // 2 + half, mask=live[:, None], other=0.0)
    at = row * D + half
    cos_first, cos_second = tl.load(cos + at).to(tl.float32), tl.load(cos + at + D // 2).to(tl.float32)
    sin_first, sin_second = tl.load(sin + at).to(tl.float32), tl.load(sin + at + D // 2).to(tl.float32)
    first, second = first.to(tl.float32), second.to(tl.float32)
    scale = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / D + eps)[:, None]
    first *= scale * weight_first.to(tl.float32)
    second *= scale * weight_second.to(tl.float32)
    return first * cos_first - second * sin_first, second * cos_second + first * sin_second


@triton.jit
def in_fp8(x):
    """x within the range of float8_e4m3fn."""
    return tl.minimum(tl.maximum(x, -448.0), 448.0)


@triton.jit
def fp8_scale(largest):
    """The scale of values of this largest magnitude."""
    return tl.maximum(largest / 448.0, 1e-30)


@triton.jit
def about_log2(x):
    """log2 of positive float32, at most 0.09 too low: exponent and mantissa read as one number."""
    return x.to(tl.int32, bitcast=True).to(tl.float32) * 2**-23 - 127


@triton.jit
def as_factors(x, dtype: tl.constexpr, FP8: tl.constexpr):
    """Queries in the dtype of products: `dtype`, but float16 with FP8, which an instruction converts without loss."""
    return x.to(tl.float16 if FP8 and dtype == tl.bfloat16 else dtype)


@triton.jit
def _store_kernel(
    q,
    k,
    v,
    q_weight,
    k_weight,
    cos,
    sin,
    q_out,
    k_pool,
    v_pool,
    v_scales,
    slots,
    eps,
    key_scale,
    q_stride,
    k_stride,
    v_stride,
    k_page_stride,
    v_page_stride,
    v_scale_stride,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    HEADS: tl.constexpr,
    FP8: tl.constexpr,
    EARLY: tl.constexpr,
):
    """HEADS heads of one row a program: of queries, or of keys and values."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    half = tl.arange(0, D // 2)
    Q_PARTS: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    if Q_HEADS > 0:
        if part < Q_PARTS:
            weight_first, weight_second = tl.load(q_weight + half), tl.load(q_weight + D // 2 + half)
            depend(EARLY)
            heads = part * HEADS + tl.arange(0, HEADS)
            live = heads < Q_HEADS
            first, second = _normed_and_rotated(
                q + row * q_stride, heads, live, weight_first, weight_second, cos, sin, row, eps, D
            )
            to = q_out + (row * Q_HEADS + heads[:, None]) * D + half
            tl.store(to, first.to(q_out.dtype.element_ty), mask=live[:, None])
            tl.store(to + D // 2, second.to(q_out.dtype.element_ty), mask=live[:, None])
    if KV_HEADS > 0:
        if part >= Q_PARTS:
            weight_first, weight_second = tl.load(k_weight + half), tl.load(k_weight + D // 2 + half)
            depend(EARLY)
            slot = tl.load(slots + row).to(tl.int64)
            heads = (part - Q_PARTS) * HEADS + tl.arange(0, HEADS)
            live = heads < KV_HEADS
            value = v + row * v_stride + heads[:, None] * D + half
            value_first = tl.load(value, mask=live[:, None])
            value_second = tl.load(value + D // 2, mask=live[:, None])
            first, second = _normed_and_rotated(
                k + row * k_stride, heads, live, weight_first, weight_second, cos, sin, row, eps, D
            )
            place = (heads[:, None] * PAGE + slot % PAGE) * D + half
            kept = live[:, None] & (slot >= 0)
            if FP8:
                first, second = in_fp8(first / key_scale), in_fp8(second / key_scale)
                value_first, value_second = value_first.to(tl.float32), value_second.to(tl.float32)
                most = tl.maximum(tl.max(tl.abs(value_first), 1), tl.max(tl.abs(value_second), 1))
                value_scale = fp8_scale(most).to(v_scales.dtype.element_ty)
                at = v_scales + slot // PAGE * v_scale_stride + heads * PAGE + slot % PAGE
                tl.store(at, value_scale, mask=live & (slot >= 0))
                divisor = value_scale.to(tl.float32)[:, None]
                value_first, value_second = in_fp8(value_first / divisor), in_fp8(value_second / divisor)
            to = k_pool + slot // PAGE * k_page_stride + place
            tl.store(to, first.to(k_pool.dtype.element_ty), mask=kept)
            tl.store(to + D // 2, second.to(k_pool.dtype.element_ty), mask=kept)
            to = v_pool + slot // PAGE * v_page_stride + place
            tl.store(to, value_first.to(v_pool.dtype.element_ty), mask=kept)
            tl.store(to + D // 2, value_second.to(v_pool.dtype.element_ty), mask=kept)


def _launch_store(
    q: Tensor | None,
    k: Tensor | None,
    v: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    k_pool: Tensor | None,
    v_pool: Tensor | None,
    slots: Tensor | None,
    key_scale: float = 1.0,
    v_scales: Tensor | None = None,
) -> Tensor | None:
    rows, d = cos.shape
    q_out = None if q is None else torch.empty(q.shape, dtype=q.dtype, device=q.device)
    q_heads = 0 if q is None else q.shape[1]
    kv_heads = 0 if k is None else k.shape[1]
    if not rows:
        return q_out
    block = triton.next_power_of_2(min(8, max(q_heads, kv_heads)))
    grid = (rows, triton.cdiv(q_heads, block) + triton.cdiv(kv_heads, block))
    _store_kernel[grid](
        q,
        k,
        v,
        q_weight,
        k_weight,
        cos.contiguous(),
        sin.contiguous(),
        q_out,
        k_pool,
        v_pool,
        v_scales,
        slots,
        eps,
        key_scale,
        0 if q is None else q.stride(0),
        0 if k is None else k.stride(0),
        0 if v is None else v.stride(0),
        0 if k_pool is None else k_pool.stride(0),
        0 if v_pool is None else v_pool.stride(0),
        0 if v_scales is None else v_scales.stride(0),
        Q_HEADS=q_heads,
        KV_HEADS=kv_heads,
        D=d,
        PAGE=1 if k_pool is None else k_pool.shape[2],
        HEADS=block,
        FP8=v_scales is not None,
        num_warps=2,
        **early(cos.device),
    )
    return q_out


def store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    key_scale: float = 1.0,
    v_scales: Tensor | None = None,
) -> Tensor:
    """Apply QK norm and rotary embedding; store keys and values in their pages.

    Args:
        q: (rows, heads, d), each row contiguous.
        k, v: (rows, kv heads, d), each row contiguous.
        q_weight, k_weight: (d,), weights of the RMSNorm over each head.
        eps: epsilon of both norms.
        cos, sin: (rows, d), floating point.
        k_pool, v_pool: (pages, kv heads, page size, d); written in place.
        slots: (rows,) int32 or int64, the slot of each row; -1 stores nothing.
        key_scale, v_scales: for pools of float8_e4m3fn: keys are divided by the number, which must be at least the
            largest magnitude over 448; values by scales of their own, written to v_scales (pages, kv heads, page size).

    Returns:
        The queries, (rows, heads, d), contiguous.
    """
    out = _launch_store(q, k, v, q_weight, k_weight, eps, cos, sin, k_pool, v_pool, slots, key_scale, v_scales)
    assert out is not None
    return out


def store_keys_values(
    k: Tensor,
    v: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    key_scale: float = 1.0,
    v_scales: Tensor | None = None,
) -> None:
    """Do as `store` for keys and values alone, as of vision tokens."""
    _launch_store(None, k, v, None, k_weight, eps, cos, sin, k_pool, v_pool, slots, key_scale, v_scales)


def rotate_queries(q: Tensor, q_weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """Do as `store` for queries alone, as of cross-attention. Returns (rows, heads, d), contiguous."""
    out = _launch_store(q, None, None, q_weight, None, eps, cos, sin, None, None, None)
    assert out is not None
    return out
