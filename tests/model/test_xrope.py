"""Rotary positions: those of the walk that defines them, and the turns that they make."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.xrope import frame_positions, rotary, rotate, text_layout

prompts = st.lists(st.none() | st.sampled_from([(1, 1), (2, 3), (2, 3), (3, 2), (4, 1)]), max_size=12)
"""A text token, or a frame's merged rows and columns."""


def lay_out(prompt, start=0):
    sizes = [item for item in prompt if item]
    return text_layout(torch.tensor([item is not None for item in prompt], dtype=torch.bool), as_sizes(sizes), start)


def as_sizes(sizes):
    return torch.tensor(sizes, dtype=torch.long).view(-1, 2)


def walk(prompt, p):
    """The module's definition, token by token → text, vision tokens of each frame with its separator, the next."""
    text, vision = [], []
    for item in prompt:
        if item is None:
            text.append(p)
        else:
            rows, columns = item
            s = p + max(rows, columns)
            vision.append([(p, p + y, p + x) for y in range(rows) for x in range(columns)] + [(s, s, s)])
            text.append(s)
        p = text[-1] + 1
    return text, vision, p


def test_a_prompt_with_two_frames_by_hand():
    plan = lay_out([None, (2, 3), None, (3, 1), None], start=5)
    assert plan.text.tolist() == [5, 9, 10, 14, 15]
    assert plan.visible_frames.tolist() == [0, 1, 1, 2, 2]
    assert plan.origins.tolist() == [6, 11]
    assert plan.separators.tolist() == [9, 14]
    assert plan.frame_ends.tolist() == [7, 11]
    assert plan.next_position == 16
    assert plan.vision().tolist() == [
        [6, 6, 6, 6, 6, 6, 9, 11, 11, 11, 14],
        [6, 6, 6, 7, 7, 7, 9, 11, 12, 13, 14],
        [6, 7, 8, 6, 7, 8, 9, 11, 11, 11, 14],
    ]


@given(prompts, st.integers(0, 1000), st.data())
def test_positions_are_those_of_the_walk(prompt, start, data):
    text, vision, end = walk(prompt, start)
    plan = lay_out(prompt, start)
    assert plan.text.tolist() == text and plan.next_position == end
    first = data.draw(st.integers(0, len(vision)))
    last = data.draw(st.none() | st.integers(first, len(vision)))
    expected = [place for frame in vision[first:last] for place in frame]
    assert plan.vision(first, last).T.tolist() == [list(place) for place in expected]
    assert plan.vision().shape[1] == sum(map(len, vision))
    assert all(one.dtype == torch.long for one in (plan.text, plan.visible_frames, plan.frame_ends, plan.vision()))


def test_a_prompt_begins_at_zero():
    assert text_layout(torch.tensor([False, False]), as_sizes([])).text.tolist() == [0, 1]


@pytest.mark.parametrize("start", [0, 7])
def test_nothing_leaves_everything_where_it_is(start):
    assert lay_out([], start).next_position == start


def test_no_frames_have_no_positions():
    nothing = torch.zeros(0, dtype=torch.long)
    found = frame_positions(as_sizes([]), nothing, nothing)
    assert found.shape == (3, 0) and found.dtype == torch.long


def test_every_frame_needs_its_image_token():
    with pytest.raises(ValueError, match=r"has 1 image tokens, but grid_thw describes 2 frames"):
        text_layout(torch.tensor([False, True]), as_sizes([(1, 1), (1, 1)]))


def test_frequencies_turn_with_time_height_and_width():
    config = MossVLTextConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=28,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [8, 3, 3]},
    )
    places = [(3, 50, 700), (0, 1, 2), (40_000, 5, 5)]
    axes = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0]
    angles = [[place[axis] * 100 ** (-j / 14) for j, axis in enumerate(axes)] * 2 for place in places]
    cos, sin = rotary(config, torch.tensor(places).T, torch.float32)
    assert cos.shape == sin.shape == (3, 28)
    torch.testing.assert_close(cos, torch.tensor([[math.cos(a) for a in row] for row in angles]), atol=5e-3, rtol=0)
    torch.testing.assert_close(sin, torch.tensor([[math.sin(a) for a in row] for row in angles]), atol=5e-3, rtol=0)
    assert {table.dtype for table in rotary(config, torch.tensor(places).T, torch.bfloat16)} == {torch.bfloat16}


def test_angles_are_computed_where_the_positions_are():
    cos, sin = rotary(MossVLTextConfig(), torch.zeros(3, 2, dtype=torch.long, device="meta"), torch.float32)
    assert cos.is_meta and sin.is_meta and cos.shape == (2, 128)


def test_angles_are_as_exact_as_float32_whatever_the_activations_are():
    config = MossVLTextConfig()
    rounded = rotary(config, torch.full((3, 1), 1001), torch.bfloat16)
    exact = rotary(config, torch.full((3, 1), 1001), torch.float32)
    assert [torch.equal(a, b.bfloat16()) for a, b in zip(rounded, exact, strict=True)] == [True, True]
    assert exact[0][0, 0].item() == pytest.approx(math.cos(1001), abs=1e-4)


def test_a_head_is_turned_by_its_rows_angles():
    """Its two halves are the real and the imaginary parts of numbers that are multiplied by e^(i · angle)."""
    x = torch.randn(4, 3, 10, dtype=torch.double)
    angles = torch.randn(4, 5, dtype=torch.double)
    twice = torch.cat((angles, angles), dim=-1)
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    torch.testing.assert_close(rotate(x, (twice.cos(), twice.sin())), torch.cat((turned.real, turned.imag), dim=-1))
