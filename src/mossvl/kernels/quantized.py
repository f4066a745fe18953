"""Products of few rows with weights in 8 and 4 bits.

They are bound by the bandwidth of reading weights: a fused kernel streams the codes and converts them in registers.
Activations keep their dtype, sums are float32.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels import blocks, four_bits, fp8
from mossvl.kernels.codes import converted, eight_numbers
from mossvl.kernels.elementwise import rms_norm, silu, tanh
from mossvl.kernels.launch import depend, early, precision
from mossvl.kernels.one_row import one_row


@dataclass(frozen=True)
class Quantized:
    """A weight (out, in): number of each code · scale.

    Attributes:
        data: of FP8, float8_e4m3fn (out, in). Of 4 bits, int32 (out, in / 8) of eight codes each: of INT4, each is a
            number plus 8, the first in the lowest bits; of NF4, the first of each byte is in its high half.
        scales: float32 (out, groups), each for in / groups weights of a row: of FP8 all, of others a multiple of 32.
        kind: "fp8", "int4" or "nf4".
    """

    data: Tensor
    scales: Tensor
    kind: str


@triton.jit(do_not_specialize=["rows"])
def _few_rows_kernel(
    x,
    data,
    scales,
    table,
    residual,
    gate,
    sees,
    out,
    rows,
    outs,
    x_stride,
    residual_stride,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    KIND: tl.constexpr,
    PAIR: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Up to BLOCK_M rows of x: BLOCK_N outputs a program, whose warps share the columns. Weights are left in `tl.dot`.

    Of 4 bits, the j-th codes of BLOCK_W words of each part are multiplied at once by their columns of x, which are side
    by side (`four_bits.spread`). FP8 has words of one code.
    """
    CODES: tl.constexpr = 1 if KIND == "fp8" else 8
    NONE: tl.constexpr = 0.0 if KIND == "fp8" else 0
    W: tl.constexpr = K // CODES
    SHARE: tl.constexpr = tl.cdiv(W, PARTS * BLOCK_W) * BLOCK_W
    depend(EARLY)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    live, real = (n < outs)[None, :, None], (m < rows)[None, :, None]
    k = (tl.arange(0, PARTS) * SHARE)[:, None, None] + tl.arange(0, BLOCK_W)[None, None, :]
    wide = n.to(tl.int64)[None, :, None]
    w = data + wide * W + k
    up = w + tl.cast(outs, tl.int64) * W
    scale = scales + wide * GROUPS
    scale_up = scale + tl.cast(outs, tl.int64) * GROUPS
    row = x + m[None, :, None] * x_stride + k
    acc = tl.zeros([PARTS, BLOCK_N, BLOCK_M], tl.float32)
    acc_up = tl.zeros([PARTS, BLOCK_N, BLOCK_M], tl.float32)
    dtype: tl.constexpr = x.dtype.element_ty
    for start in tl.range(0, SHARE, BLOCK_W, num_stages=STAGES):
        inside = start + k < W
        block = tl.load(w + start, mask=live & inside, other=NONE)
        block_up = block
        if PAIR:
            block_up = tl.load(up + start, mask=live & inside, other=NONE)
        if KIND == "fp8":
            tile = tl.trans(tl.load(row + start, mask=real & inside, other=0.0), 0, 2, 1)
            acc = tl.dot(converted(block, dtype), tile, acc, input_precision=PRECISION)
            if PAIR:
                acc_up = tl.dot(converted(block_up, dtype), tile, acc_up, input_precision=PRECISION)
        else:
            group = (start + k) // (W // GROUPS)
            factor = tl.load(scale + group, mask=live & inside, other=0.0).to(dtype)
            numbers = eight_numbers(block, KIND, table, dtype, ASSEMBLY)
            if PAIR:
                factor_up = tl.load(scale_up + group, mask=live & inside, other=0.0).to(dtype)
                numbers_up = eight_numbers(block_up, KIND, table, dtype, ASSEMBLY)
            for j in tl.static_range(8):
                tile = tl.trans(tl.load(row + j * W + start, mask=real & inside, other=0.0), 0, 2, 1)
                acc = tl.dot(numbers[j] * factor, tile, acc, input_precision=PRECISION)
                if PAIR:
                    acc_up = tl.dot(numbers_up[j] * factor_up, tile, acc_up, input_precision=PRECISION)
    y, y_up = tl.sum(acc, 0), tl.sum(acc_up, 0)
    if KIND == "fp8":
        y *= tl.load(scales + n, mask=n < outs, other=0.0)[:, None]
        if PAIR:
            y_up *= tl.load(scales + outs + n, mask=n < outs, other=0.0)[:, None]
    mask = (n < outs)[:, None] & (m < rows)
    if RESIDUAL:
        added = residual + m * residual_stride + n[:, None]
    if PAIR:
        if RESIDUAL:
            y += tl.load(added, mask=mask, other=0.0).to(tl.float32)
            y_up += tl.load(added + outs, mask=mask, other=0.0).to(tl.float32)
        y = silu(y) * y_up
    if GATED:
        y *= tanh(tl.load(gate).to(tl.float32)) * tl.load(sees + m, mask=m < rows, other=0.0).to(tl.float32)
    if RESIDUAL and not PAIR:
        y += tl.load(added, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + m * outs + n[:, None], y.to(out.dtype.element_ty), mask=mask)


def stream(
    x: Tensor,
    weight: Quantized,
    norm: tuple[Tensor, float] | None = None,
    pair: bool = False,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    sees: Tensor | None = None,
) -> Tensor:
    """x @ weight.T for up to FEW_ROWS rows, or RMSNorm(x) instead of x, by a fused kernel.

    Args:
        x: (rows, in).
        norm: weight (in,) and epsilon.
        pair: silu(first half of the outputs) · second half.
        residual: added, (rows, out); before that, with `gate`, products are multiplied by tanh(gate) · sees. Of a pair,
            (rows, 2 · out), added before SiLU.
        gate: (1,).
        sees: (rows, 1).
    """
    rows, inner = x.shape
    outs = len(weight.data) // 2 if pair else len(weight.data)
    product = blocks.Product(outs, inner, norm is not None, pair, weight.kind)
    out = torch.empty(rows, outs, dtype=x.dtype, device=x.device)
    flags: dict[str, Any] = {
        "K": inner,
        "GROUPS": weight.scales.shape[1],
        "KIND": weight.kind,
        "PAIR": pair,
        "RESIDUAL": residual is not None,
        "GATED": gate is not None,
        "ASSEMBLY": x.is_cuda and x.dtype == torch.bfloat16,
        **early(x.device),
    }
    stored, operands = (weight.data, weight.scales, four_bits.table(x.device)), (residual, gate, sees)
    if rows == 1:
        one_row(
            x,
            norm,
            (weight.data.view(torch.int32), *stored[1:]),
            operands,
            out,
            blocks.one_row(x.device, product, x.dtype),
            **flags,
        )
        return out
    few = blocks.few_rows(x.device, rows, product, x.dtype)
    if weight.kind != "fp8":
        x = four_bits.spread(x, norm)
    elif norm is not None:
        x = rms_norm(x, *norm)
    _few_rows_kernel[(triton.cdiv(outs, few.outs),)](
        x, *stored, *operands, out, rows, outs, x.stride(0),
        0 if residual is None else residual.stride(0), PARTS=few.warps,
        BLOCK_M=max(8, triton.next_power_of_2(rows)), BLOCK_N=few.outs,
        BLOCK_W=few.inner if weight.kind == "fp8" else few.inner // 8, STAGES=few.stages,
        PRECISION=precision(x.dtype), num_warps=few.warps, **flags,
    )  # fmt: skip
    return out


def product(x: Tensor, weight: Quantized, norm: tuple[Tensor, float] | None = None) -> Tensor:
    """x @ weight.T, or RMSNorm(x) @ weight.T, for many rows: x (rows, in), norm's weight and epsilon → (rows, out).

    FP8 quantizes x, too, where the device multiplies so (W8A8); other weights are dequantized first.
    """
    if fp8.multiplies(x, weight.data):
        return fp8.product(x, weight.data, weight.scales, norm)
    if weight.kind == "fp8":
        dense = (weight.data.float() * weight.scales).to(x.dtype)
    else:
        dense = four_bits.dequantized(weight.data, weight.scales, weight.kind, x.dtype)
    return F.linear(x if norm is None else rms_norm(x, *norm), dense)
