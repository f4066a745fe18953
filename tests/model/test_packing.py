"""Packed rows: which are image tokens, which media they read, where they stand and what they see."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mossvl.model.cache import MossVLCache
from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.packed_batch import PackedBatch, group_media, image_tokens, seen_rows
from mossvl.model.xrope import text_layout

TEXT, IMAGE = 1, 9  # a text token and the image token
MERGE = 2
A, B, C = (1, 4, 6), (2, 2, 4), (3, 2, 2)  # media: frames, patch rows, patch columns


def rows(text):
    """One sample's tokens, an `i` for each image token."""
    return torch.tensor([token == "i" for token in text], dtype=torch.bool)


def lists(tensors):
    return [tensor.tolist() for tensor in tensors]


# --- image tokens ----------------------------------------------------------------------------------------------------

IDS = torch.tensor([[IMAGE, TEXT, IMAGE, IMAGE], [TEXT, IMAGE, IMAGE, TEXT]])
REAL = torch.tensor([[False, True, True, True], [True, True, False, False]])
FOUND = [[False, True, True], [False, True]]


def mask(*seen):
    """(batch, 1, text, frames), True where hidden, from how many frames each row sees."""
    return ~(torch.arange(3) < torch.tensor(seen)[:, :, None])[:, None]


def test_image_tokens_are_told_by_ids_and_padding_has_none():
    assert lists(image_tokens(IDS, None, REAL, IMAGE)) == FOUND


def test_image_tokens_are_told_by_the_mask_where_it_is_alone():
    assert lists(image_tokens(None, mask([3, 0, 1, 2], [0, 1, 0, 0]), REAL, IMAGE)) == FOUND
    assert lists(image_tokens(None, mask([1, 1], [0, 1]), torch.ones(2, 2, dtype=torch.bool), IMAGE)) == [
        [True, False],
        [False, True],
    ]


def test_ids_and_mask_that_agree_are_taken():
    assert lists(image_tokens(IDS, mask([0, 0, 1, 2], [0, 1, 1, 1]), REAL, IMAGE)) == FOUND


@pytest.mark.parametrize("seen", [([0, 0, 1, 1], [0, 1, 1, 1]), ([0, 0, 1, 2], [1, 1, 1, 1])])
def test_a_mask_that_contradicts_one_sample_is_refused(seen):
    with pytest.raises(ValueError, match="does not follow from input_ids"):
        image_tokens(IDS, mask(*seen), REAL, IMAGE)


def test_without_ids_and_mask_there_are_no_image_tokens():
    found = image_tokens(None, None, REAL, IMAGE)
    assert lists(found) == [[False] * 3, [False] * 2] and found[0].dtype == torch.bool


# --- media of groups -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grids", "counts", "samples", "groups"),
    [
        ([], None, 2, [[], []]),
        (None, None, 3, [[], [], []]),
        ([], None, None, [[]]),
        ([A, B], None, 1, [[A, B]]),
        ([A, B, C], [1, 0, 2], 3, [[A], [], [B, C]]),
        ([A, B, C], torch.tensor([2, 1]), 2, [[A, B], [C]]),
        ([A, B], [1, 1], None, [[A], [B]]),
        (None, [0, 0], 2, [[], []]),
    ],
)
def test_media_go_to_their_groups_in_order(grids, counts, samples, groups):
    given = None if grids is None else torch.tensor(grids).view(-1, 3)
    assert group_media(given, counts, samples) == groups


@pytest.mark.parametrize(
    ("grids", "counts", "samples", "words"),
    [
        ([A], None, 2, "a batch needs media_nums_per_sample"),
        ([A], None, None, "a batch needs media_nums_per_sample"),
        ([A], [1], 2, "1 entries for 2 samples"),
        ([A], [1, 1], 2, r"\[1, 1\] adds up to 2, but grid_thw has 1 rows"),
        ([A, B], [1], None, r"\[1\] adds up to 1, but grid_thw has 2 rows"),
    ],
)
def test_counts_that_do_not_fit_are_refused(grids, counts, samples, words):
    with pytest.raises(ValueError, match=words):
        group_media(torch.tensor(grids), counts, samples)


def test_rows_of_groups_that_are_not_seen_are_left_out():
    given = torch.arange(12).view(6, 2)
    assert seen_rows(given, [1, 2, 3], [[A], [], [B]], "patches").tolist() == [[0, 1], [6, 7], [8, 9], [10, 11]]
    assert seen_rows(given, [4, 2], [[A], []], "patches").tolist() == given[:4].tolist()
    assert seen_rows(given, [4, 2], [[], []], "patches").shape == (0, 2)
    assert seen_rows(given, [6], [[A]], "patches").data_ptr() == given.data_ptr(), "nothing is copied for one group"


def test_rows_must_be_as_many_as_the_media_have():
    with pytest.raises(ValueError, match="describes 5 patches, but 6 were given"):
        seen_rows(torch.zeros(6, 2), [2, 3], [[A], [B]], "patches")


# --- packed rows -----------------------------------------------------------------------------------------------------


def test_a_batch_by_hand():
    """Two samples that share a medium, one with its own, one of text alone, and a medium that nobody sees."""
    samples = [rows("tit"), rows("tit"), rows("iti"), rows("tt")]
    packed = PackedBatch.pack(samples, [[A], [C], [B]], [0, 0, 2, 1], MERGE, None)
    assert packed.lengths == [3, 3, 3, 2]
    assert packed.groups == [[A], [], [B]] and packed.grids == [A, B]
    assert packed.reads == [0, 0, 2, 1]
    assert packed.positions.tolist() == [[0, 4, 5, 0, 4, 5, 2, 3, 6, 0, 1]] * 3
    assert packed.visible.tolist() == [0, 7, 7, 0, 7, 7, 3, 3, 6, 0, 0]
    assert packed.vision_lengths == [7, 0, 6]
    assert packed.vision_positions.tolist() == [
        [1, 1, 1, 1, 1, 1, 4, 0, 0, 2, 4, 4, 6],
        [1, 1, 1, 2, 2, 2, 4, 0, 0, 2, 4, 4, 6],
        [1, 2, 3, 1, 2, 3, 4, 0, 1, 2, 4, 5, 6],
    ]
    assert packed.next_positions == [6, 6, 7, 2]
    assert packed.frames == [1, 1, 2, 0]
    assert packed.frame_ends.tolist() == [7, 7, 3, 6]
    assert packed.attends.T.tolist() == [
        *([0, 1, 0, 0], [0, 2, 0, 7], [0, 3, 0, 7]),
        *([3, 4, 0, 0], [3, 5, 0, 7], [3, 6, 0, 7]),
        *([6, 7, 7, 10], [6, 8, 7, 10], [6, 9, 7, 13]),
        *([9, 10, 7, 7], [9, 11, 7, 7]),
    ]
    assert packed.attends.dtype == torch.int32


def test_text_alone_has_no_vision():
    packed = PackedBatch.pack([rows("tt")], [[C]], [0], MERGE, None)
    assert packed.groups == [[]] and packed.grids == [] and packed.vision_lengths == [0]
    assert packed.vision_positions.shape == (3, 0) and packed.vision_positions.dtype == torch.long
    assert packed.frame_ends.shape == (0,) and packed.frames == [0]
    assert {one.dtype for one in (packed.positions, packed.visible, packed.frame_ends)} == {torch.long}


@st.composite
def conversations(draw):
    """For each sample, parts: texts with an `i` for each frame of the media that come with them."""
    parts, media = [], []
    for _ in range(draw(st.integers(1, 3))):
        grids = draw(st.lists(st.sampled_from([A, B, C]), max_size=2))
        frames = sum(frames for frames, _, _ in grids)
        text = "".join(draw(st.permutations("i" * frames + "t" * draw(st.integers(1, 4)))))
        parts.append(text)
        media.append(grids)
    return parts, media


@given(st.lists(conversations(), min_size=1, max_size=3), st.integers(1, 3))
def test_what_comes_in_several_calls_stands_and_sees_as_in_one(samples, calls):
    """Each sample is what it is by itself, all at once, whatever a cache holds of it before."""
    cache = MossVLCache(MossVLTextConfig(num_hidden_layers=1, cross_attention_layers=[0]))
    columns, whole = 0, [("", []) for _ in samples]
    for call in range(calls):
        texts = [parts[call] if call < len(parts) else "t" for parts, _ in samples]
        media = [grids[call] if call < len(grids) else [] for _, grids in samples]
        packed = PackedBatch.pack([rows(text) for text in texts], media, range(len(samples)), MERGE, cache)
        whole = [(a + b, c + d) for (a, c), b, d in zip(whole, texts, media, strict=True)]
        columns += max(map(len, texts))
        packed.remember(cache, max(map(len, texts)))
        assert cache.columns == columns == cache.get_seq_length()
        own = zip(packed.positions[0].split(packed.lengths), packed.visible.split(packed.lengths), strict=True)
        for number, (positions, visible) in enumerate(own):
            text, grids = whole[number]
            sizes = [(h // MERGE, w // MERGE) for t, h, w in grids for _ in range(t)]
            layout = text_layout(rows(text), torch.tensor(sizes, dtype=torch.long).view(-1, 2))
            ends = [0, *layout.frame_ends.tolist()]
            assert positions.tolist() == layout.text[-len(positions) :].tolist()
            assert visible.tolist() == [ends[seen] for seen in layout.visible_frames[-len(positions) :]]
            assert cache.next_positions[number] == layout.next_position
            assert cache.vision_ends[number].tolist() == ends[1:]
            assert packed.frames[number] == len(sizes)
            new = sum(t for t, _, _ in media[number])
            vision = packed.vision_positions.split(packed.vision_lengths, dim=1)[number]
            assert vision.tolist() == layout.vision(len(sizes) - new).tolist()


@pytest.mark.parametrize("reads", [[0], [0, 1, 0], [0, 2], [-1, 0]])
def test_every_sample_reads_one_of_the_groups(reads):
    with pytest.raises(ValueError, match=r"must name one of 2 groups"):
        PackedBatch.pack([rows("t"), rows("t")], [[], []], reads, MERGE, None)


def test_a_cache_holds_as_many_samples_as_go_on():
    cache = MossVLCache(MossVLTextConfig(num_hidden_layers=1, cross_attention_layers=[0]))
    PackedBatch.pack([rows("t")], [[]], [0], MERGE, cache).remember(cache, 1)
    with pytest.raises(ValueError, match="holds 1 samples, but this batch has 2"):
        PackedBatch.pack([rows("t"), rows("t")], [[], []], [0, 1], MERGE, cache)


def test_shared_media_stand_at_the_same_positions_for_all_readers():
    with pytest.raises(ValueError, match="samples that share group 0"):
        PackedBatch.pack([rows("it"), rows("ti")], [[A]], [0, 0], MERGE, None)


def test_a_pinned_batch_is_the_same_in_other_memory(monkeypatch):
    """Where there is no GPU, memory cannot be pinned: a copy stands for it."""
    pinned = []

    def pin_memory(tensor):
        assert tensor.is_contiguous()
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    packed = PackedBatch.pack([rows("tit"), rows("t")], [[A], []], [0, 1], MERGE, None)
    again = packed.pin_memory()
    for field in fields(packed):
        before, after = getattr(packed, field.name), getattr(again, field.name)
        if isinstance(before, torch.Tensor):
            assert torch.equal(before, after) and any(after is one for one in pinned)
        else:
            assert before == after
