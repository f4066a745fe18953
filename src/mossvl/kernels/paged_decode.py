"""Attention of one query row a sequence over pages."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.launch import LOG2_E, depend, early, multiprocessors, precision


@triton.jit
def _share(program, programs, total):
    """The first of the blocks that a program does, of `total` blocks that are shared out evenly and in order."""
    return program * (total // programs) + tl.minimum(program, total % programs)


@triton.jit
def _owner(block, programs, total):
    """Which program does a block: the inverse of `_share`."""
    each, more = total // programs, total % programs
    return tl.where(
        block < more * (each + 1), block // (each + 1), more + (block - more * (each + 1)) // tl.maximum(each, 1)
    )


@triton.jit(do_not_specialize=["rows"])
def _decode_kernel(
    q,
    k_pool,
    v_pool,
    tables,
    table_rows,
    lengths,
    out,
    partial,
    stats,
    scale,
    rows,
    q_stride,
    table_stride,
    k_page_stride,
    v_page_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Blocks of all rows and kv heads lie in one line, of which every program does an equal part.

    A run is what a program does of one row and kv head. If that is all of it, it goes to `out`; else to a slot of
    `partial` and `stats`: 2 · program if the run's beginning was done by the program before, 2 · program + 1 if not.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    index = tl.arange(0, ROWS)
    all_table_rows = tl.load(table_rows + index, mask=index < rows, other=0)
    # Of each row: the blocks of its tokens, once for each kv head.
    blocks = tl.cdiv(tl.load(lengths + index, mask=index < rows, other=0), BLOCK) * KV_HEADS
    ends = tl.cumsum(blocks, 0)
    total = tl.sum(blocks)
    block = _share(program, programs, total)
    stop = _share(program + 1, programs, total)

    lane = tl.arange(0, 16)  # queries of the group, padded to what a matrix product takes
    group = lane < GROUP
    dim = tl.arange(0, D)
    token = tl.arange(0, BLOCK)
    while block < stop:
        row = tl.sum((ends <= block).to(tl.int32))
        inside = block - tl.sum(tl.where(index < row, blocks, 0))
        length = tl.load(lengths + row)
        whole = tl.cdiv(length, BLOCK)
        head = inside // whole
        first = inside % whole
        last = tl.minimum(whole, first + stop - block)
        table = tables + tl.sum(tl.where(index == row, all_table_rows, 0)).to(tl.int64) * table_stride
        heads = head * GROUP + lane
        queries = tl.load(q + row.to(tl.int64) * q_stride + heads[:, None] * D + dim, mask=group[:, None], other=0.0)
        top = tl.full([16], float("-inf"), tl.float32)
        weight = tl.zeros([16], tl.float32)
        acc = tl.zeros([16, D], tl.float32)
        # Pages are looked up a block ahead: loads through a load in the same turn would hardly be pipelined.
        tokens = first * BLOCK + token
        page = tl.load(table + tokens // PAGE, mask=tokens < length, other=0)
        for number in tl.range(first, last, num_stages=STAGES):
            tokens = number * BLOCK + token
            live = tokens < length
            place = ((head * PAGE + tokens % PAGE) * D)[:, None] + dim
            key = k_pool + (page.to(tl.int64) * k_page_stride)[:, None] + place
            value = v_pool + (page.to(tl.int64) * v_page_stride)[:, None] + place
            page = tl.load(table + (tokens + BLOCK) // PAGE, mask=tokens + BLOCK < length, other=0)
            keys = tl.load(key, mask=live[:, None], other=0.0)
            values = tl.load(value, mask=live[:, None], other=0.0)
            scores = tl.dot(queries, keys.T, input_precision=PRECISION) * scale
            scores = tl.where(live, scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            shrink = tl.exp2(top - higher)
            exps = tl.exp2(scores - higher[:, None])
            weight = weight * shrink + tl.sum(exps, 1)
            acc = tl.dot(exps.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
            top = higher
        if last - first == whole:
            to = out + (row.to(tl.int64) * KV_HEADS * GROUP + heads[:, None]) * D + dim
            tl.store(to, (acc / weight[:, None]).to(out.dtype.element_ty), mask=group[:, None])
        else:
            slot = (2 * program + (first == 0).to(tl.int32)) * GROUP + lane
            tl.store(partial + slot[:, None] * D + dim, acc, mask=group[:, None])
            tl.store(stats + 2 * slot, top, mask=group)
            tl.store(stats + 2 * slot + 1, weight, mask=group)
        block += last - first


@triton.jit(do_not_specialize=["rows"])
def _combine_decode_kernel(
    lengths,
    partial,
    stats,
    out,
    rows,
    programs,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One query head of one row: the parts that several programs did of it, put together; zeros for empty rows."""
    depend(EARLY)
    row, query = tl.program_id(0), tl.program_id(1)
    index = tl.arange(0, ROWS)
    blocks = tl.cdiv(tl.load(lengths + index, mask=index < rows, other=0), BLOCK) * KV_HEADS
    total = tl.sum(blocks)
    whole = tl.sum(tl.where(index == row, blocks, 0)) // KV_HEADS
    begin = tl.sum(tl.where(index < row, blocks, 0)) + query // GROUP * whole
    dim = tl.arange(0, D)
    to = out + (row.to(tl.int64) * KV_HEADS * GROUP + query) * D + dim
    if whole == 0:
        tl.store(to, tl.zeros([D], out.dtype.element_ty))
    else:
        first = _owner(begin, programs, total)
        count = _owner(begin + whole - 1, programs, total) - first + 1
        if count > 1:
            top = tl.full([], float("-inf"), tl.float32)
            weight = tl.full([], 0.0, tl.float32)
            acc = tl.zeros([D], tl.float32)
            for start in range(0, count, CHUNK):
                part = start + tl.arange(0, CHUNK)
                live = part < count
                slot = (2 * (first + part) + (part == 0).to(tl.int32)) * GROUP + query % GROUP
                tops = tl.load(stats + 2 * slot, mask=live, other=float("-inf"))
                weights = tl.load(stats + 2 * slot + 1, mask=live, other=0.0)
                accs = tl.load(partial + slot[:, None] * D + dim, mask=live[:, None], other=0.0)
                higher = tl.maximum(top, tl.max(tops))
                shrinks = tl.exp2(tops - higher)
                shrink = tl.exp2(top - higher)
                weight = weight * shrink + tl.sum(weights * shrinks)
                acc = acc * shrink + tl.sum(accs * shrinks[:, None], 0)
                top = higher
            tl.store(to, (acc / weight).to(out.dtype.element_ty))


def _blocks(rows: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """BLOCK, warps, programs a multiprocessor, and stages: the best of 13 choices on an H100."""
    if dtype == torch.float32:
        return 32, 4, 4, 2
    return (64, 4, 2, 4) if rows <= 32 else (64, 4, 3, 2)


def decode_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    tables: Tensor,
    table_rows: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    """Attention of one query row a sequence.

    The work is shared out on the device by the real lengths, so that one long sequence beside many short ones uses the
    whole GPU. The workspace is bounded by the number of programs.

    Args:
        q: (rows, heads, d), each row contiguous.
        k_pool, v_pool: (pages, kv heads, page size, d).
        tables: (sequences, blocks) int32, contiguous in the last dimension. Entries beyond a length are not read.
        table_rows: (rows,) int32, which row of `tables` each row reads.
        lengths: (rows,) int32, how many tokens each row sees; 0 gives zeros.
        scale: of the scores.

    Returns:
        (rows, heads, d), contiguous.
    """
    rows, heads, d = q.shape
    _, kv_heads, page, _ = k_pool.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not rows:
        return out
    group = heads // kv_heads
    block, warps, resident, stages = _blocks(rows, q.dtype)
    programs = resident * multiprocessors(q.device)
    partial = torch.empty(2 * programs, group, d, dtype=torch.float32, device=q.device)
    stats = torch.empty(2 * programs, group, 2, dtype=torch.float32, device=q.device)
    shape = {
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "D": d,
        "BLOCK": block,
        "ROWS": max(16, triton.next_power_of_2(rows)),
    }
    # Not launched early: large programs that wait would keep those of the next products from their places.
    _decode_kernel[(programs,)](
        q,
        k_pool,
        v_pool,
        tables,
        table_rows,
        lengths,
        out,
        partial,
        stats,
        scale * LOG2_E,
        rows,
        q.stride(0),
        tables.stride(0),
        k_pool.stride(0),
        v_pool.stride(0),
        PAGE=page,
        STAGES=stages,
        PRECISION=precision(q.dtype),
        num_warps=warps,
        **shape,
    )
    _combine_decode_kernel[(rows, heads)](
        lengths, partial, stats, out, rows, programs, CHUNK=32, num_warps=4, **shape, **early(q.device)
    )
    return out
