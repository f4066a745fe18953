"""transformers' keyword arguments of a processor: what each asks for, of which media, and what is refused."""

import re
from pathlib import Path

import pytest
import torch

import mossvl
from mossvl.errors import OptionError

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURE, CLIP = str(EXAMPLES / "shapes.png"), str(EXAMPLES / "clip.mp4")
GROUPS = ["text_kwargs", "images_kwargs", "videos_kwargs", "common_kwargs"]


@pytest.fixture(scope="module")
def tiny():
    return mossvl.load(device="cpu")[1]


@pytest.fixture(scope="module")
def plain(tiny):
    return both(tiny)


def both(processor, **given):
    """What the processor makes of a picture and a clip."""
    return processor("<|image|><|video|>What?", PICTURE, CLIP, **given)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


DONE_AND_NOT = {
    "add_special_tokens": ([True, False], []),
    "data_format": (["channels_first"], ["channels_last"]),
    "device": (["cpu"], ["cuda"]),
    "disable_grouping": ([True, False], []),
    "do_center_crop": ([False], [True]),
    "do_convert_rgb": ([True], [False]),
    "do_normalize": ([True], [False]),
    "do_pad": ([False], [True]),
    "do_rescale": ([True], [False]),
    "do_resize": ([True], [False]),
    "image_mean": ([0.5, [0.5, 0.5, 0.5], (0.5, 0.5, 0.5)], [0.4, 1, [0.5, 0.5], [0.5, 0.5, 0.4]]),
    "image_std": ([0.5, [0.5, 0.5, 0.5], (0.5, 0.5, 0.5)], [0.4, 1, [0.5, 0.5], [0.5, 0.5, 0.4]]),
    "is_split_into_words": ([False], [True]),
    "load_audio_from_video": ([False], [True]),
    "max_length": ([None, 5, 4096], []),
    "pad_to_multiple_of": ([None, 1], [8]),
    "resample": ([3], [2]),
    "rescale_factor": ([1 / 255], [1.0]),
    "return_attention_mask": ([True], [False]),
    "return_length": ([False], [True]),
    "return_metadata": ([False], [True]),
    "return_mm_token_type_ids": ([False], [True]),
    "return_offsets_mapping": ([False], [True]),
    "return_overflowing_tokens": ([False], [True]),
    "return_special_tokens_mask": ([False], [True]),
    "return_text_replacement_offsets": ([False], [True]),
    "return_token_type_ids": ([False], [True]),
    "sanitize_control_tokens": ([True, False], []),
    "stride": ([0], [16]),
    "truncation": ([False], [True]),
    "verbose": ([True, False], []),
    "audio": ([None, [], (), {}], [[0.5], "speech.wav", 0]),
    "audio_kwargs": ([None, [], (), {}], [{"sampling_rate": 16000}]),
    "sampling_rate": ([None], [16000]),
}
"""By argument: values that ask for what is done anyway, and values that ask for what is not done."""


@pytest.mark.parametrize("name", DONE_AND_NOT)
def test_what_is_done_anyway_may_be_asked_for_and_nothing_else(name, tiny):
    done, refused = DONE_AND_NOT[name]
    for value in done:
        assert_same(tiny("<|image|>What?", PICTURE, **{name: value}), tiny("<|image|>What?", PICTURE))
    for value in refused:
        with pytest.raises(OptionError, match=rf"^{name}\b.* not supported"):
            tiny("<|image|>What?", PICTURE, **{name: value})


def test_a_refusal_tells_the_value_that_may_be_given(tiny):
    for given, told in (
        ({"resample": 2}, "resample=2 is not supported; leave it out, or give 3"),
        ({"stride": [7] * 99}, f"stride={str([7] * 99)[:200]} is not supported; leave it out, or give 0"),
        ({"image_std": 0.4}, "image_std=0.4 is not supported; this processor's is [0.5, 0.5, 0.5]"),
    ):
        with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
            both(tiny, **given)


@pytest.mark.parametrize("group", GROUPS)
def test_an_argument_means_in_a_group_what_it_means_alone(group, tiny, plain):
    for given in ({"num_frames": 4}, {"fps": 0.5}, {"max_frames": 3}, {"resample": 3}):
        assert_same(both(tiny, **{group: given}), both(tiny, **given))
    for nothing in (None, {}, {"num_frames": None, "resample": None}):
        assert_same(both(tiny, **{group: nothing}), plain)
    with pytest.raises(OptionError, match="resample=2 is not supported"):
        both(tiny, **{group: {"resample": 2}})
    with pytest.raises(OptionError, match=rf"^{group}='strange' must be a dict"):
        both(tiny, **{group: "strange"})
    with pytest.raises(OptionError, match="'frames_num'"):
        both(tiny, **{group: {"frames_num": 4}})


@pytest.mark.parametrize(
    ("group", "sized"),
    [("images_kwargs", [0]), ("videos_kwargs", [1]), ("text_kwargs", [0, 1]), ("common_kwargs", [0, 1])],
)
def test_a_size_is_of_the_media_that_its_group_names(group, sized, tiny, plain):
    areas = {"min_pixels": 4096, "max_pixels": 4096}
    everywhere = both(tiny, **areas)["grid_thw"]
    assert (everywhere[:, 1:] != plain["grid_thw"][:, 1:]).any(dim=1).all()
    for given in (areas, {"size": {"shortest_edge": 4096, "longest_edge": 4096}}):
        grids = both(tiny, **{group: given})["grid_thw"]
        for medium in (0, 1):
            expected = everywhere if medium in sized else plain["grid_thw"]
            assert grids[medium].tolist() == expected[medium].tolist()


def test_a_groups_size_goes_before_the_one_of_all_and_a_mediums_own_before_both(tiny):
    def grid_of(own, **given):
        message = {"role": "user", "content": [{"type": "image", "image": PICTURE, **own}]}
        return tiny.apply_chat_template([message], tokenize=True, return_dict=True, **given)["grid_thw"].tolist()

    small, large = ({"min_pixels": area, "max_pixels": area} for area in (4096, 16384))
    assert grid_of(small) != grid_of(large)
    assert grid_of({}, **small, images_kwargs=large) == grid_of(large)
    assert grid_of(small, images_kwargs=large) == grid_of(small, **large) == grid_of(small)
    assert grid_of({"max_pixels": 4096}, images_kwargs={"min_pixels": 1024}) == grid_of(
        {"min_pixels": 1024, "max_pixels": 4096}
    )


def test_either_edge_of_a_size_may_be_given_alone(tiny):
    for edge, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        assert_same(both(tiny, size={edge: 8192}), both(tiny, **{name: 8192}))


@pytest.mark.parametrize("size", [{}, 224, [4096, 8192], {"height": 64, "width": 64}, {"longest_edge": 1, "edge": 1}])
def test_a_size_that_is_no_area_is_refused(size, tiny):
    with pytest.raises(OptionError, match=rf"^{re.escape(f'size={size!r}')} is not supported.*min_pixels"):
        both(tiny, size=size)


def test_frames_are_counted_in_whole_numbers_and_sampled_or_not(tiny, plain):
    assert_same(both(tiny, num_frames=4), both(tiny, min_frames=4, max_frames=4))
    assert_same(both(tiny, do_sample_frames=True), plain)
    for given in ({"num_frames": 2.5}, {"num_frames": 0}, {"do_sample_frames": 1}, {"do_sample_frames": "no"}):
        (name,) = given
        with pytest.raises(OptionError, match=f"^{name}={given[name]!r} must be"):
            both(tiny, **given)


@pytest.mark.parametrize("group", GROUPS)
def test_how_rows_are_padded_may_stand_in_a_group(group, tiny):
    texts = ["Hi", "What is in the picture?"]
    for side in ("left", "right"):
        rows = tiny(texts, **{group: {"padding_side": side, "padding": True, "return_tensors": "pt"}})
        assert_same(rows, tiny(texts, padding_side=side))
        assert rows["attention_mask"][0, 0] == (side == "right")
    for given, told in (
        ({"padding": False}, "need padding=True"),
        ({"padding": "max_length"}, "padding='max_length'"),
        ({"padding_side": "top"}, "padding_side='top'"),
        ({"return_tensors": "np"}, "return_tensors='np' is not supported"),
    ):
        with pytest.raises(OptionError, match=told):
            tiny(texts, **{group: given})
