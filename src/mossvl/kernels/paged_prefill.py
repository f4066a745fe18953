"""Paged attention of many query rows of several sequences."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.launch import LOG2_E, depend, early, multiprocessors, precision
from mossvl.kernels.page_tables import aligned, in_pages, pages_of, places
from mossvl.kernels.paged_store import about_log2, as_factors

TILE_ROWS = 32
"""Query rows of a tile, all of one sequence; with 4 query heads a kv head, 128 rows of a matrix product."""


@triton.jit
def _prefill_blocks(
    queries,
    acc,
    top,
    weight,
    begin,
    end,
    free,
    head,
    base,
    hidden,
    seen,
    high,
    table,
    k_pool,
    v_pool,
    v_scales,
    scale,
    k_page_stride,
    v_page_stride,
    v_scale_stride,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    FP8: tl.constexpr,
):
    """Attend to blocks begin…end of a tile's tokens, which are counted from `base` of the sequence.

    Query i sees the tokens from `hidden` to seen[i]; `high` is the maximum of `seen`. With MASKED, the first block may
    stand for block 0: if its number is below `free`.
    """
    token = tl.arange(0, BLOCK)
    # Look pages up one block ahead: Triton hardly pipelines loads that depend on a load of the same iteration.
    first = base + (tl.where(begin < free, 0, begin) if MASKED else begin) * BLOCK
    pages = pages_of(table, first, base + high, PAGE, BLOCK)
    for number in tl.range(begin, end, num_stages=STAGES):
        index = tl.where(number < free, 0, number) if MASKED else number
        tokens, first = index * BLOCK + token, base + index * BLOCK
        key = places(k_pool, pages, k_page_stride, first, head, PAGE, BLOCK, D)
        value = places(v_pool, pages, v_page_stride, first, head, PAGE, BLOCK, D)
        if FP8:
            factor = places(v_scales, pages, v_scale_stride, first, head, PAGE, BLOCK, 1)
        pages = pages_of(table, base + (number + 1) * BLOCK, base + high, PAGE, BLOCK)
        if MASKED:
            live = (tokens >= hidden) & (tokens < high)
            there = in_pages(live, PAGE, BLOCK)
            keys = tl.load(key, mask=there, other=0.0).reshape(BLOCK, D)
            values = tl.load(value, mask=there, other=0.0).reshape(BLOCK, D)
        else:
            keys = tl.load(key).reshape(BLOCK, D)
            values = tl.load(value).reshape(BLOCK, D)
        if FP8:
            value_scale = tl.load(factor, mask=there if MASKED else None, other=0.0 if MASKED else None)
            value_scale = value_scale.to(tl.float32).reshape(BLOCK)
        if FP8:
            keys, values = keys.to(queries.dtype), values.to(queries.dtype)
        scores = tl.dot(queries, keys.T, input_precision=PRECISION)
        if MASKED:
            scores = tl.where((tokens >= hidden) & (tokens < seen[:, None]), scores, float("-inf"))
        if FP8:  # The maximum is about that of an exponential times its factor, so that float16 holds them.
            higher = tl.maximum(top, tl.max(scores * scale + about_log2(value_scale), 1))
        else:
            higher = tl.maximum(top, tl.max(scores, 1) * scale)
        level = higher
        if MASKED:
            level = tl.where(higher == float("-inf"), 0.0, higher)  # no visible token so far: avoid inf - inf
        exps = tl.exp2(scores * scale - level[:, None])
        shrink = tl.exp2(top - level)
        weight = weight * shrink + tl.sum(exps, 1)
        if FP8:
            exps *= value_scale
        acc = tl.dot(exps.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
        top = higher
    return acc, top, weight


@triton.jit(do_not_specialize=["num_tiles"])
def _prefill_kernel(
    q,
    k_pool,
    v_pool,
    v_scales,
    tables,
    tiles,
    visible,
    starts,
    out,
    partial,
    stats,
    scale,
    num_tiles,
    q_stride,
    tile_stride,
    table_stride,
    k_page_stride,
    v_page_stride,
    v_scale_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    FP8: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One tile of rows and the query heads of one kv head a program, over one of SPLITS parts of the visible tokens."""
    depend(EARLY)
    head = tl.program_id(0) % KV_HEADS
    tile = num_tiles - 1 - tl.program_id(0) // KV_HEADS  # longest first: a prompt's last rows see most
    table = tables + tl.load(tiles + tile * tile_stride).to(tl.int64) * table_stride
    begin = tl.load(tiles + tile * tile_stride + 1)
    rows = tl.load(tiles + tile * tile_stride + 2)
    start = 0 if starts is None else tl.load(starts + begin)

    query = tl.arange(0, TILE * GROUP)
    row = query // GROUP
    live = row < rows
    base = aligned(start, PAGE, BLOCK)
    hidden = start - base
    seen = hidden + tl.load(visible + begin + row, mask=live, other=0)
    high = tl.max(seen)
    low = tl.min(tl.where(live, seen, high))
    dim = tl.arange(0, D)
    place = (begin + row).to(tl.int64)[:, None]
    part = ((head * GROUP + query % GROUP) * D)[:, None] + dim
    queries = as_factors(tl.load(q + place * q_stride + part, mask=live[:, None], other=0.0), q.dtype.element_ty, FP8)

    blocks = tl.cdiv(high, BLOCK)
    first = blocks * tl.program_id(1) // SPLITS
    last = blocks * (tl.program_id(1) + 1) // SPLITS
    partly = ((hidden > 0) & (first == 0) & (last > 0)).to(tl.int32)  # The first block is hidden in part.
    free = tl.minimum(tl.maximum(low // BLOCK, first + partly), last)
    acc = tl.zeros([TILE * GROUP, D], tl.float32)
    top = tl.full([TILE * GROUP], float("-inf"), tl.float32)
    weight = tl.zeros([TILE * GROUP], tl.float32)
    acc, top, weight = _prefill_blocks(
        queries, acc, top, weight, first + partly, free, free, head, base, hidden, seen, high, table, k_pool, v_pool,
        v_scales, scale, k_page_stride, v_page_stride, v_scale_stride, D, PAGE, BLOCK, False, STAGES, PRECISION, FP8,
    )  # fmt: skip
    acc, top, weight = _prefill_blocks(
        queries, acc, top, weight, free - partly, last, free, head, base, hidden, seen, high, table, k_pool, v_pool,
        v_scales, scale, k_page_stride, v_page_stride, v_scale_stride, D, PAGE, BLOCK, True, STAGES, PRECISION, FP8,
    )  # fmt: skip

    if SPLITS == 1:
        acc = acc / tl.where(weight == 0.0, 1.0, weight)[:, None]
        tl.store(out + place * (KV_HEADS * GROUP * D) + part, acc.to(out.dtype.element_ty), mask=live[:, None])
    else:
        slot = ((place * KV_HEADS + head) * GROUP + query[:, None] % GROUP) * SPLITS + tl.program_id(1)
        tl.store(partial + slot * D + dim, acc, mask=live[:, None])
        tl.store(stats + 2 * slot, top[:, None], mask=live[:, None])
        tl.store(stats + 2 * slot + 1, weight[:, None], mask=live[:, None])


@triton.jit
def _combine_prefill_kernel(partial, stats, out, D: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr):
    """Combine the splits of one query head of one row."""
    depend(EARLY)
    query = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, D)
    slot = query * SPLITS + tl.arange(0, SPLITS)
    tops = tl.load(stats + 2 * slot)
    level = tl.max(tops)
    shrinks = tl.exp2(tops - tl.where(level == float("-inf"), 0.0, level))
    weight = tl.sum(tl.load(stats + 2 * slot + 1) * shrinks)
    acc = tl.sum(tl.load(partial + slot[:, None] * D + dim) * shrinks[:, None], 0)
    tl.store(out + query * D + dim, (acc / tl.where(weight == 0.0, 1.0, weight)).to(out.dtype.element_ty))


def prefill_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    tables: Tensor,
    tiles: Tensor,
    visible: Tensor,
    scale: float,
    splits: int = 1,
    v_scales: Tensor | None = None,
    starts: Tensor | None = None,
) -> Tensor:
    """Paged attention of many query rows; row r sees visible[r] tokens of its sequence, from the place starts[r] on.

    Args:
        q: (rows, heads, d), each row contiguous.
        k_pool, v_pool: (pages, kv heads, page size, d).
        tables: (sequences, blocks) int32, contiguous in the last dimension. Entries that no row sees are not read.
        tiles: (tiles, 3) int32: row of `tables`, first row of q, number of rows, at most TILE_ROWS. Every row of q
            belongs to one tile.
        visible: (rows,) int32, never decreasing within a sequence; 0 gives zeros.
        scale: factor of the scores.
        splits: programs that share a tile's tokens, a power of two; see `choose_splits`.
        v_scales: (pages, kv heads, page size), factors of the values, if pools are float8_e4m3fn.
        starts: (rows,) int32, the same in all rows of a tile; None for 0.

    Returns:
        (rows, heads, d), contiguous.
    """
    rows, heads, d = q.shape
    _, kv_heads, page, _ = k_pool.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not rows:
        return out
    block = 64 if q.dtype != torch.float32 else 32
    parts = rows * heads * splits if splits > 1 else 0
    partial = torch.empty(parts, d, dtype=torch.float32, device=q.device)
    stats = torch.empty(parts, 2, dtype=torch.float32, device=q.device)
    _prefill_kernel[(len(tiles) * kv_heads, splits)](
        q,
        k_pool,
        v_pool,
        v_scales,
        tables,
        tiles,
        visible,
        starts,
        out,
        partial,
        stats,
        scale * LOG2_E,
        len(tiles),
        q.stride(0),
        tiles.stride(0),
        tables.stride(0),
        k_pool.stride(0),
        v_pool.stride(0),
        0 if v_scales is None else v_scales.stride(0),
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        D=d,
        PAGE=page,
        BLOCK=block,
        TILE=TILE_ROWS,
        SPLITS=splits,
        STAGES=3,
        PRECISION=precision(q.dtype),
        FP8=v_scales is not None,
        num_warps=8,
        **early(q.device),
    )
    if splits > 1:
        _combine_prefill_kernel[(rows * heads,)](
            partial, stats, out, D=d, SPLITS=splits, num_warps=2, **early(q.device)
        )
    return out


def choose_splits(num_tiles: int, kv_heads: int, longest: int) -> int:
    """Return the number of programs that should share a tile's tokens, `longest` at most: enough to fill the GPU."""
    programs = (
        132 if not torch.cuda.is_available() else multiprocessors(torch.device("cuda", torch.cuda.current_device()))
    )
    splits = min(programs // max(1, num_tiles * kv_heads), longest // 512, 32)
    return 1 << max(0, splits.bit_length() - 1)
