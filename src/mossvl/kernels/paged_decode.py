"""Attention of one new token a sequence over pages, with QK norm, rotary embedding and storing, in one kernel."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mossvl.kernels import blocks
from mossvl.kernels.launch import LOG2_E, early, let_next_launch, multiprocessors, precision, wait
from mossvl.kernels.page_tables import aligned, page_of, rows_in
from mossvl.kernels.paged_store import about_log2, as_factors, fp8_scale, in_fp8


@triton.jit
def _rotated(x, other, weight, other_weight, sign, cos, sin, eps, D: tl.constexpr):
    """RMSNorm of each row of x (n, D) and rotation; `other` is x, and `other_weight` weight, with swapped halves."""
    x, other = x.to(tl.float32), other.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
    return scale * (x * weight * cos + sign * other * other_weight * sin)


@triton.jit
def _attend(queries, keys, values, value_scales, live, scale, top, weight, acc, PRECISION: tl.constexpr):
    """Attend to one block of tokens: the online softmax's next maximum, sum, and weighted sum of values.

    `value_scales` are the factors of values in FP8, or None. With them, the maximum is about that of an exponential
    times its factor, which half precision holds then.
    """
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    scores = tl.dot(queries, keys.T, input_precision=PRECISION) * scale
    scores = tl.where(live, scores, float("-inf"))
    if value_scales is None:
        higher = tl.maximum(top, tl.max(scores, 1))
    else:
        higher = tl.maximum(top, tl.max(scores + about_log2(value_scales), 1))
    shrink = tl.exp2(top - higher)
    exps = tl.exp2(scores - higher[:, None])
    weight = weight * shrink + tl.sum(exps, 1)
    if value_scales is not None:
        exps *= value_scales
    acc = tl.dot(exps.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
    return higher, weight, acc


@triton.jit
def _splits(blocks, share, SHARE: tl.constexpr):
    """The number of splits of some blocks: of `share` blocks at least, and of SHARE where there are eight of these."""
    least = tl.maximum(tl.minimum(tl.cdiv(blocks, 8), SHARE), share)
    return tl.maximum(tl.cdiv(blocks, tl.maximum(least, 1)), 1)


@triton.jit(do_not_specialize=["rows", "budget"])
def _decode_kernel(
    q,
    k,
    v,
    q_weight,
    k_weight,
    cos,
    sin,
    k_pool,
    v_pool,
    v_scales,
    tables,
    table_rows,
    lengths,
    starts,
    out,
    partial,
    stats,
    arrivals,
    eps,
    scale,
    key_scale,
    rows,
    budget,
    q_stride,
    k_stride,
    v_stride,
    table_stride,
    k_page_stride,
    v_page_stride,
    v_scale_stride,
    NEW: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARE: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    GROUP_LANES: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    FP8: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One split of the stored tokens of one row and kv head a program; NEW: the first split also has the new token.

    The last program of a row and kv head to arrive combines the splits, in their order.
    """
    let_next_launch(EARLY)
    program = tl.program_id(0)
    index = tl.arange(0, ROWS)
    all_lengths = tl.load(lengths + index, mask=index < rows, other=0)
    all_stored = tl.maximum(all_lengths - NEW, 0)
    if starts is not None:
        all_starts = tl.load(starts + index, mask=index < rows, other=0)
        all_stored += tl.where(all_stored > 0, all_starts - aligned(all_starts, PAGE, BLOCK), 0)
    all_blocks = tl.cdiv(all_stored, BLOCK)
    share = tl.cdiv(tl.sum(all_blocks) * KV_HEADS, budget)  # So there are at most as many programs.
    all_splits = tl.where(index < rows, _splits(all_blocks, share, SHARE), 0)
    ends = tl.cumsum(all_splits * KV_HEADS, 0)
    row = tl.sum((ends <= program).to(tl.int32))
    if row < rows:
        length = tl.sum(tl.where(index == row, all_lengths, 0))
        start = 0 if starts is None else tl.load(starts + row)
        base = aligned(start, PAGE, BLOCK)
        end = start + tl.maximum(length - NEW, 0)
        whole = tl.where(end > start, tl.cdiv(end - base, BLOCK), 0)
        splits = _splits(whole, share, SHARE)
        inside = program - (tl.sum(tl.where(index == row, ends, 0)) - splits * KV_HEADS)
        head, split = inside // splits, inside % splits
        first, last = whole * split // splits, whole * (split + 1) // splits
        table = tables + tl.load(table_rows + row).to(tl.int64) * table_stride

        lane = tl.arange(0, 16)  # query heads of the group, padded to the least size of `tl.dot`
        group = lane < GROUP
        dim = tl.arange(0, D)
        token = tl.arange(0, BLOCK)
        # Other steps wrote the stored tokens: the first block loads while the previous kernel ends.
        begin = base + first * BLOCK
        live = (begin + token >= start) & (begin + token < end) & (first < last)
        page = page_of(table, begin, end, PAGE, BLOCK)
        key = rows_in(k_pool, page, k_page_stride, begin, head, PAGE, BLOCK, D)[:, None] + dim
        value = rows_in(v_pool, page, v_page_stride, begin, head, PAGE, BLOCK, D)[:, None] + dim
        keys = tl.load(key, mask=live[:, None], other=0.0)
        values = tl.load(value, mask=live[:, None], other=0.0)
        value_scales = None
        if FP8:
            factor = rows_in(v_scales, page, v_scale_stride, begin, head, PAGE, BLOCK, 1)
            value_scales = tl.load(factor, mask=live, other=0.0).to(tl.float32)
        page = page_of(table, begin + BLOCK, end, PAGE, BLOCK)

        swapped = (dim + D // 2) % D
        sign = tl.where(dim < D // 2, -1.0, 1.0)
        weight_q, weight_swapped = tl.load(q_weight + dim).to(tl.float32), tl.load(q_weight + swapped).to(tl.float32)
        wide_row = row.to(tl.int64)
        wait(EARLY)
        cosine, sine = (
            tl.load(cos + wide_row * D + dim).to(tl.float32),
            tl.load(sin + wide_row * D + dim).to(tl.float32),
        )
        heads = (head * GROUP + lane)[:, None] * D
        query = q + wide_row * q_stride + heads
        x = tl.load(query + dim, mask=group[:, None], other=0.0)
        other = tl.load(query + swapped, mask=group[:, None], other=0.0)
        queries = _rotated(x, other, weight_q, weight_swapped, sign, cosine, sine, eps, D)
        queries = as_factors(queries, q.dtype.element_ty, FP8)
        top = tl.full([16], float("-inf"), tl.float32)
        weight = tl.zeros([16], tl.float32)
        acc = tl.zeros([16, D], tl.float32)
        if NEW:
            one = tl.arange(0, 1)[:, None]
            from_k = k + wide_row * k_stride + head * D + one
            weight_k = tl.load(k_weight + dim).to(tl.float32)
            weight_swapped = tl.load(k_weight + swapped).to(tl.float32)
            x, other = tl.load(from_k + dim), tl.load(from_k + swapped)
            new_value = tl.load(v + wide_row * v_stride + head * D + dim)
            new_key = _rotated(x, other, weight_k, weight_swapped, sign, cosine, sine, eps, D)
            mine = (split == 0) & (length > 0)
            new_page = tl.load(table + end // PAGE, mask=mine, other=0).to(tl.int64)
            if FP8:
                new_key = in_fp8(new_key / key_scale)
                new_scale = fp8_scale(tl.max(tl.abs(new_value.to(tl.float32)))).to(v_scales.dtype.element_ty)
                tl.store(v_scales + new_page * v_scale_stride + head * PAGE + end % PAGE, new_scale, mask=mine)
                new_scale = new_scale.to(tl.float32)
                new_value = in_fp8(new_value.to(tl.float32) / new_scale)
            new_key, new_value = new_key.to(k_pool.dtype.element_ty), new_value.to(v_pool.dtype.element_ty)
            spot = (head * PAGE + end % PAGE) * D + dim
            tl.store(k_pool + new_page * k_page_stride + spot[None, :] + one, new_key, mask=mine)
            tl.store(v_pool + new_page * v_page_stride + spot, new_value, mask=mine)
            score = tl.sum(queries.to(tl.float32) * new_key.to(tl.float32), 1) * scale
            top = tl.where(mine, score, top)
            weight = tl.where(mine, 1.0, weight)
            new_value = new_value.to(tl.float32)
            if FP8:
                level = about_log2(new_scale)
                top += level
                weight *= tl.exp2(-level)
                new_value *= new_scale * tl.exp2(-level)
            acc = tl.where(mine, new_value[None, :], acc)
        if first < last:
            top, weight, acc = _attend(queries, keys, values, value_scales, live, scale, top, weight, acc, PRECISION)
        # Look pages up one block ahead: Triton hardly pipelines loads that depend on a load of the same iteration.
        for number in tl.range(first + 1, last, num_stages=STAGES):
            begin = base + number * BLOCK
            live = begin + token < end
            key = rows_in(k_pool, page, k_page_stride, begin, head, PAGE, BLOCK, D)[:, None] + dim
            value = rows_in(v_pool, page, v_page_stride, begin, head, PAGE, BLOCK, D)[:, None] + dim
            if FP8:
                factor = rows_in(v_scales, page, v_scale_stride, begin, head, PAGE, BLOCK, 1)
                value_scales = tl.load(factor, mask=live, other=0.0).to(tl.float32)
            page = page_of(table, begin + BLOCK, end, PAGE, BLOCK)
            keys = tl.load(key, mask=live[:, None], other=0.0)
            values = tl.load(value, mask=live[:, None], other=0.0)
            top, weight, acc = _attend(queries, keys, values, value_scales, live, scale, top, weight, acc, PRECISION)

        to = out + wide_row * KV_HEADS * GROUP * D
        if splits == 1:
            result = acc / tl.where(weight == 0.0, 1.0, weight)[:, None]
            tl.store(to + heads + dim, result.to(out.dtype.element_ty), mask=group[:, None])
        else:
            slot = program * GROUP + lane
            tl.store(partial + slot[:, None] * D + dim, acc, mask=group[:, None])
            tl.store(stats + 2 * slot, top, mask=group)
            tl.store(stats + 2 * slot + 1, weight, mask=group)
            tl.debug_barrier()  # All threads' stores come before the arrival.
            arrived = tl.atomic_add(arrivals + row * KV_HEADS + head, 1, sem="acq_rel", scope="gpu")
            if arrived == splits - 1:
                tl.store(arrivals + row * KV_HEADS + head, 0)
                _combine(partial, stats, to + head * GROUP * D, program - split, splits, GROUP, GROUP_LANES, D, CHUNK)


@triton.jit
def _combine(
    partial,
    stats,
    out,
    begin,
    splits,
    GROUP: tl.constexpr,
    GROUP_LANES: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Combine the partial results of `splits` programs, `begin` the first, of a group of query heads."""
    lane = tl.arange(0, GROUP_LANES)
    dim = tl.arange(0, D)
    top = tl.full([GROUP_LANES], float("-inf"), tl.float32)
    weight = tl.zeros([GROUP_LANES], tl.float32)
    acc = tl.zeros([GROUP_LANES, D], tl.float32)
    for start in range(0, splits, CHUNK):
        part = start + tl.arange(0, CHUNK)
        live = (part < splits)[:, None] & (lane < GROUP)
        slot = (begin + part)[:, None] * GROUP + lane
        # From L2: another multiprocessor wrote them.
        tops = tl.load(stats + 2 * slot, mask=live, other=float("-inf"), cache_modifier=".cg")
        weights = tl.load(stats + 2 * slot + 1, mask=live, other=0.0, cache_modifier=".cg")
        accs = tl.load(
            partial + slot[:, :, None] * D + dim[None, None, :], mask=live[:, :, None], other=0.0, cache_modifier=".cg"
        )
        higher = tl.maximum(top, tl.max(tops, 0))
        level = tl.where(higher == float("-inf"), 0.0, higher)  # a lane without a query head
        shrinks = tl.exp2(tops - level[None, :])
        shrink = tl.exp2(top - level)
        weight = weight * shrink + tl.sum(weights * shrinks, 0)
        acc = acc * shrink[:, None] + tl.sum(accs * shrinks[:, :, None], 0)
        top = higher
    result = acc / tl.where(weight == 0.0, 1.0, weight)[:, None]
    tl.store(out + lane[:, None] * D + dim, result.to(out.dtype.element_ty), mask=(lane < GROUP)[:, None])


@dataclass(frozen=True)
class NewToken:
    """Keys and values that a decode step adds, one token a row.

    Attributes:
        k, v: (rows, kv heads, d), each row contiguous; k is neither normalised nor rotated.
        weight: (d,), weight of the keys' RMSNorm.
    """

    k: Tensor
    v: Tensor
    weight: Tensor


def decode_attention(
    q: Tensor,
    q_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    tables: Tensor,
    table_rows: Tensor,
    lengths: Tensor,
    scale: float,
    arrivals: Tensor,
    new: NewToken | None = None,
    key_scale: float = 1.0,
    v_scales: Tensor | None = None,
    starts: Tensor | None = None,
) -> Tensor:
    """Apply QK norm and rotary embedding, store the new tokens in their pages, and attend, one query row a sequence.

    Programs divide the work by the lengths on the device, so that one long sequence beside many short ones occupies the
    whole GPU. The number of programs bounds the workspace.

    Args:
        q: (rows, heads, d), each row contiguous, neither normalised nor rotated.
        q_weight: (d,), weight of the queries' RMSNorm.
        eps: epsilon of both norms.
        cos, sin: (rows, d), contiguous, floating point.
        k_pool, v_pool: (pages, kv heads, page size, d); new tokens are written in place.
        tables: (sequences, blocks) int32, contiguous in the last dimension. Entries beyond a length are not read.
        table_rows: (rows,) int32, row of `tables` for each query row.
        lengths: (rows,) int32, tokens that each query row sees, the new one included; 0 gives zeros.
        scale: factor of the scores.
        arrivals: (at least rows · kv heads,) int32 zeros, which are zeros again afterwards.
        new: the last of the tokens that each row sees; None if all are in their pages. Rows with new tokens have pages
            of their own, and earlier steps stored all other tokens.
        key_scale, v_scales: factors of keys, and of values (pages, kv heads, page size), for pools of float8_e4m3fn:
            see `paged_store.store`.
        starts: (rows,) int32, place of the first token that each row sees, in its row of `tables`; None for 0.

    Returns:
        (rows, heads, d), contiguous.
    """
    rows, heads, d = q.shape
    _, kv_heads, page, _ = k_pool.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not rows:
        return out
    group = heads // kv_heads
    chosen = blocks.decode(q.device, rows, q.dtype, new is None, 0 if v_scales is None else page)
    # A row's last split of a kv head may be shorter than the others: such splits get programs of their own.
    at_once = chosen.programs * multiprocessors(q.device)
    budget = max(at_once - rows * kv_heads, at_once // 2)
    programs = budget + rows * kv_heads
    partial = torch.empty(programs, group, d, dtype=torch.float32, device=q.device)
    stats = torch.empty(programs, group, 2, dtype=torch.float32, device=q.device)
    _decode_kernel[(programs,)](
        q,
        None if new is None else new.k,
        None if new is None else new.v,
        q_weight,
        None if new is None else new.weight,
        cos,
        sin,
        k_pool,
        v_pool,
        v_scales,
        tables,
        table_rows,
        lengths,
        starts,
        out,
        partial,
        stats,
        arrivals,
        eps,
        scale * key_scale * LOG2_E,
        key_scale,
        rows,
        budget,
        q.stride(0),
        0 if new is None else new.k.stride(0),
        0 if new is None else new.v.stride(0),
        tables.stride(0),
        k_pool.stride(0),
        v_pool.stride(0),
        0 if v_scales is None else v_scales.stride(0),
        NEW=new is not None,
        KV_HEADS=kv_heads,
        GROUP=group,
        D=d,
        PAGE=page,
        BLOCK=chosen.tokens,
        SHARE=chosen.share,
        ROWS=max(16, triton.next_power_of_2(rows)),
        STAGES=chosen.stages,
        GROUP_LANES=triton.next_power_of_2(group),
        CHUNK=16,
        PRECISION=precision(q.dtype),
        FP8=v_scales is not None,
        num_warps=chosen.warps,
        **early(q.device),
    )
    return out
