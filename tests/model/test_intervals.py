"""Attention to intervals of packed rows gives what each sample gives by itself. Gradients: `tests/gpu`."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.interval_backend import IntervalAttention, Intervals, backend_for
from mossvl.model.layers import Attention
from mossvl.model.packed_backend import PackedAttention
from mossvl.model.packed_batch import PackedBatch
from mossvl.model.xrope import rotary

CONFIG = MossVLTextConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
CPU = torch.device("cpu")


@st.composite
def packed_batches(draw):
    """Samples of text and frames in any order; some share the media of another one."""
    samples, groups, reads = [], [], []
    for number in range(draw(st.integers(1, 4))):
        frames = draw(st.lists(st.sampled_from([(1, 2, 2), (1, 6, 4), (1, 24, 16)]), max_size=3))
        rows = torch.zeros(draw(st.integers(1, 150)) + len(frames), dtype=torch.bool)
        places = draw(st.permutations(range(len(rows))))[: len(frames)]
        rows[sorted(places)] = True
        samples.append(rows)
        groups.append(frames)
        reads.append(number)
        if draw(st.booleans()) and frames:
            samples.append(rows.clone())
            reads.append(number)
    return PackedBatch.pack(samples, groups, reads, 2, None)


def attend(backend, packed, seed):
    """A self-attention and a cross-attention layer, without what rows that see nothing get."""
    torch.manual_seed(seed)
    attn = Attention(CONFIG).double()
    rows, keys = len(packed.visible), packed.vision_positions.shape[1]
    q, k, v, _, vision_k, vision_v = (
        torch.randn(count, heads, 32, dtype=torch.double) for count in (rows, keys) for heads in (4, 2, 2)
    )
    rope = rotary(CONFIG, packed.positions, torch.double)
    out = backend.self_attention(0, q, k, v, attn, rope)
    if packed.visible.any():
        backend.store_vision(1, vision_k, vision_v, attn, rotary(CONFIG, packed.vision_positions, torch.double))
        out = out + (packed.visible > 0)[:, None] * backend.cross_attention(1, q, attn, rope)
    return out


@given(packed_batches(), st.integers(0, 99))
@torch.no_grad()
def test_all_samples_at_once_give_what_each_gives(packed, seed):
    one_by_one = PackedAttention(packed.lengths, packed.visible, packed.vision_lengths, packed.reads, None)
    at_once = attend(IntervalAttention(packed, CPU), packed, seed)
    torch.testing.assert_close(at_once, attend(one_by_one, packed, seed), rtol=1e-9, atol=1e-9)


@given(packed_batches())
def test_blocks_that_are_read_are_those_that_hold_a_key_to_attend_to(packed):
    keys = len(packed.visible), packed.vision_positions.shape[1]
    for count, (low, high) in zip(keys, packed.attends.view(2, 2, -1), strict=True):
        if not count:
            continue
        intervals = Intervals(low, high, count)
        ours = intervals.block_mask()
        theirs = create_block_mask(ours.mask_mod, None, None, len(intervals.low), intervals.keys, device="cpu")
        dense = ours.to_dense() > 0
        assert not ((theirs.to_dense() > 0) & ~dense).any()  # a block between two samples' keys may be read in vain
        whole = ours.full_kv_num_blocks.sum()
        attended = (intervals.high - intervals.low).sum()
        assert whole * 128 * 128 <= attended + 128 * 128 * dense.shape[-1]


def test_a_gpu_takes_all_samples_at_once_and_a_cache_each_by_itself():
    packed = PackedBatch.pack([torch.zeros(3, dtype=torch.bool)], [[]], [0], 2, None)
    assert isinstance(backend_for(packed, None, CPU), PackedAttention)
