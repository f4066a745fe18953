"""Products of low rank, y += up · down · x, in which each row has the pair of maps of its own adapter, or none.

Two kernels: the first multiplies rows by `down`, a program for each adapter among a tile of rows and each slice of
their columns; the second multiplies the sums of slices by `up`, adapter after adapter of a tile. Which row has which
adapter is read from a tensor, so that a CUDA graph of a step serves whatever adapters its rows have.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.elementwise import tanh
from mossvl.kernels.launch import depend, early, precision

MOST_MAPS = 3
FEW_ROWS = 64
"""Most rows for small tiles, and short slices, which spread few rows over the multiprocessors."""
ABSENT = tl.constexpr(2**30)
"""Above the index of every adapter."""


class Stack(NamedTuple):
    """The adapters of maps with one input, by index; where one has a lower rank, or no such map, there are zeros.

    Attributes:
        down: (adapters, maps, rank, in features); the rank is a power of two from 16 on.
        up: (adapters, sum of out features, rank).
        outs: out features of each map, `MOST_MAPS` at most.
    """

    down: Tensor
    up: Tensor
    outs: tuple[int, ...]


@triton.jit(do_not_specialize=["rows"])
def _down_kernel(
    x,
    norm_weight,
    down,
    index,
    inner,
    squares,
    rows,
    x_stride,
    K: tl.constexpr,
    R: tl.constexpr,
    MAPS: tl.constexpr,
    NORM: tl.constexpr,
    SLICE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A tile of rows times `down` of one adapter and one map, over SLICE columns; other adapters' rows are left out."""
    depend(EARLY)
    adapter = tl.program_id(1)
    part, number = tl.program_id(2) // MAPS, tl.program_id(2) % MAPS
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    mine = tl.load(index + m, mask=m < rows, other=-1) == adapter
    if tl.max(mine.to(tl.int32)) > 0:
        k = part * SLICE + tl.arange(0, BLOCK_K)
        r = tl.arange(0, R)
        row = x + m.to(tl.int64)[:, None] * x_stride
        own = down + (adapter.to(tl.int64) * MAPS + number) * R * K + r[:, None] * K
        acc = tl.zeros([BLOCK_M, R], tl.float32)
        sums = tl.zeros([BLOCK_M], tl.float32)
        for start in range(0, SLICE, BLOCK_K):
            column = start + k
            inside = column < K
            tile = tl.load(row + column, mask=mine[:, None] & inside, other=0.0)
            if NORM:
                wide = tile.to(tl.float32)
                sums += tl.sum(wide * wide, 1)
                scale = tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)
                tile = (wide * scale).to(tile.dtype)
            block = tl.load(own + column, mask=inside, other=0.0)
            acc = tl.dot(tile, block.T, acc, input_precision=PRECISION)
        place = part * rows + m
        tl.store(inner + (place.to(tl.int64)[:, None] * MAPS + number) * R + r, acc, mask=mine[:, None])
        if NORM:
            if number == 0:
                tl.store(squares + place, sums, mask=mine)


@triton.jit(do_not_specialize=["rows"])
def _up_kernel(
    inner,
    squares,
    up,
    index,
    gate,
    sees,
    y,
    eps,
    rows,
    y_stride,
    K: tl.constexpr,
    R: tl.constexpr,
    MAPS: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
    SLICES: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A tile of rows, with their sums over slices, times BLOCK_N rows of `up` of one map, adapter after adapter.

    With ADD, rows with an adapter are added to y; otherwise all rows of y are written, zeros where there is none.
    """
    depend(EARLY)
    FIRST: tl.constexpr = (OUT0 + BLOCK_N - 1) // BLOCK_N
    SECOND: tl.constexpr = FIRST + (OUT1 + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(1)
    number = (block >= FIRST).to(tl.int32) + (block >= SECOND).to(tl.int32)
    before = tl.where(number == 0, 0, tl.where(number == 1, FIRST, SECOND))
    begin = tl.where(number == 0, 0, tl.where(number == 1, OUT0, OUT0 + OUT1))
    width = tl.where(number == 0, OUT0, tl.where(number == 1, OUT1, OUT2))
    n = (block - before) * BLOCK_N + tl.arange(0, BLOCK_N)
    live, column = n < width, begin + n
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    r = tl.arange(0, R)
    adapter = tl.load(index + m, mask=m < rows, other=-1)
    has = adapter >= 0
    h = tl.zeros([BLOCK_M, R], tl.float32)
    sums = tl.zeros([BLOCK_M], tl.float32)
    for part in range(SLICES):
        place = part * rows + m
        h += tl.load(inner + (place.to(tl.int64)[:, None] * MAPS + number) * R + r, mask=has[:, None], other=0.0)
        if NORM:
            sums += tl.load(squares + place, mask=has, other=0.0)
    if NORM:
        h *= tl.rsqrt(sums / K + eps)[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    chosen = tl.min(tl.where(has, adapter, ABSENT))
    while chosen < ABSENT:
        own = tl.where((adapter == chosen)[:, None], h, 0.0)
        rank = tl.load(
            up + (chosen.to(tl.int64) * (OUT0 + OUT1 + OUT2) + column[:, None]) * R + r, mask=live[:, None], other=0.0
        )
        acc = tl.dot(own.to(rank.dtype), rank.T, acc, input_precision=PRECISION)
        chosen = tl.min(tl.where(adapter > chosen, adapter, ABSENT))
    if GATED:
        acc *= (tanh(tl.load(gate).to(tl.float32)) * tl.load(sees + m, mask=has, other=0.0).to(tl.float32))[:, None]
    target = y + m.to(tl.int64)[:, None] * y_stride + column
    if ADD:
        mask = has[:, None] & live
        acc += tl.load(target, mask=mask, other=0.0).to(tl.float32)
    else:
        mask = (m < rows)[:, None] & live
    tl.store(target, acc.to(y.dtype.element_ty), mask=mask)


def _launch(
    y: Tensor,
    x: Tensor,
    stack: Stack,
    index: Tensor,
    norm: tuple[Tensor, float] | None,
    gate: Tensor | None,
    sees: Tensor | None,
    add: bool,
) -> None:
    rows, inner_features = x.shape
    if not rows:
        return
    adapters, maps, rank, _ = stack.down.shape
    few = rows <= FEW_ROWS
    # High ranks: smaller blocks, which fit into shared memory.
    block_m = 16 if few else max(16, min(64, 2**14 // rank))
    block_k = max(16, min(128, 2**13 // rank))
    slice_ = min(512 if few else 4096, -(-inner_features // block_k) * block_k)
    slices, tiles = triton.cdiv(inner_features, slice_), triton.cdiv(rows, block_m)
    inner = torch.empty((slices, rows, maps, rank), dtype=torch.float32, device=x.device)
    norm_weight, eps = norm or (None, 0.0)
    squares = None if norm is None else torch.empty((slices, rows), dtype=torch.float32, device=x.device)
    flags: dict[str, Any] = {
        "K": inner_features,
        "R": rank,
        "MAPS": maps,
        "NORM": norm is not None,
        "BLOCK_M": block_m,
        "PRECISION": precision(x.dtype),
        "num_warps": 4 if rank <= 64 else 8,
        **early(x.device),
    }
    _down_kernel[(tiles, adapters, slices * maps)](
        x, norm_weight, stack.down, index, inner, squares, rows, x.stride(0),
        SLICE=slice_, BLOCK_K=block_k, num_stages=2, **flags,
    )  # fmt: skip
    outs = (*stack.outs, 0, 0)[:MOST_MAPS]
    block_n = max(16, min(128, 2**14 // rank, triton.next_power_of_2(max(outs))))
    _up_kernel[(tiles, sum(triton.cdiv(out, block_n) for out in outs))](
        inner, squares, stack.up, index, gate, sees, y, eps, rows, y.stride(0),
        OUT0=outs[0], OUT1=outs[1], OUT2=outs[2], SLICES=slices, GATED=gate is not None, ADD=add, BLOCK_N=block_n,
        **flags,
    )  # fmt: skip


def add_low_rank(
    y: Tensor,
    x: Tensor,
    stack: Stack,
    index: Tensor,
    norm: tuple[Tensor, float] | None = None,
    gate: Tensor | None = None,
    sees: Tensor | None = None,
) -> None:
    """Add to y what each row's adapter makes of x, or of RMSNorm(x); with a gate, tanh(gate) · sees times that.

    Args:
        y: (rows, sum of out features), which is changed in rows with an adapter.
        x: (rows, in features).
        index: (rows,) int32 index of each row's adapter; below 0 for none.
        norm: weight (in features,) and epsilon.
        gate: (1,).
        sees: (rows, 1), 0 for rows without vision; needed with `gate`.
    """
    _launch(y, x, stack, index, norm, gate, sees, add=True)


def low_rank(x: Tensor, stack: Stack, index: Tensor, norm: tuple[Tensor, float] | None = None) -> Tensor:
    """As `add_low_rank` to zeros: (rows, sum of out features)."""
    y = torch.empty((len(x), sum(stack.outs)), dtype=x.dtype, device=x.device)
    _launch(y, x, stack, index, norm, None, None, add=False)
    return y
