"""Paged attention of one query row a sequence."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels.launch import LOG2_E, depend, early, multiprocessors, precision


@triton.jit
def _share(program, programs, total):
    """Return the first block of a program; `total` blocks are divided among programs evenly, in order."""
    return program * (total // programs) + tl.minimum(program, total % programs)


@triton.jit
def _owner(block, programs, total):
    """Return the program of a block: the inverse of `_share`."""
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
    """The blocks of all rows and kv heads form one sequence, divided evenly among programs.

    A run is a program's share of the blocks of one row and kv head. A complete run is stored in `out`. A partial run is
    stored in a slot of `partial` and `stats` (running maximum and sum of the online softmax): 2 · program + 1 if it
    begins at the first block, else 2 · program.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    index = tl.arange(0, ROWS)
    all_table_rows = tl.load(table_rows + index, mask=index < rows, other=0)
    # Blocks of each row, over all kv heads.
    blocks = tl.cdiv(tl.load(lengths + index, mask=index < rows, other=0), BLOCK) * KV_HEADS
    ends = tl.cumsum(blocks, 0)
    total = tl.sum(blocks)
    block = _share(program, programs, total)
    stop = _share(program + 1, programs, total)

    lane = tl.arange(0, 16)  # query heads of the group, padded to the least size of `tl.dot`
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
        # Look pages up one block ahead: Triton hardly pipelines loads that depend on a load of the same iteration.
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
    """Combine the partial runs of one query head of one row; store zeros for an empty row."""
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
    """Return BLOCK, warps, programs a multiprocessor, and stages: the fastest of 13 on an H100."""
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
    """Paged attention of one query row a sequence.

    Programs divide the work by the lengths on the device, so that one long sequence beside many short ones occupies the
    whole GPU. The number of programs bounds the workspace.

    Args:
        q: (rows, heads, d), each row contiguous.
        k_pool, v_pool: (pages, kv heads, page size, d).
        tables: (sequences, blocks) int32, contiguous in the last dimension. Entries beyond a length are not read.
        table_rows: (rows,) int32, row of `tables` for each query row.
        lengths: (rows,) int32, tokens that each query row sees; 0 gives zeros.
        scale: factor of the scores.

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
    # Without PDL: its large waiting programs would keep those of the next products from becoming resident.
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
