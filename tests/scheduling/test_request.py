"""What a request knows of its prompt: where frames stand, the keys of its blocks, and when it wants a token."""

from types import SimpleNamespace

import pytest
import torch

from mossvl import SamplingParams
from mossvl.engine.prompts import build_prompt
from mossvl.scheduling.context import Context
from mossvl.scheduling.pages import block_key
from mossvl.scheduling.request import Request

IMAGE = 99
TOKENS = [1, IMAGE, 2, IMAGE, IMAGE, 3, 4, 5, 6]
GRIDS = [(1, 4, 6), (2, 2, 4)]  # one picture of 2 × 3 merged tokens, two frames of 1 × 2


@pytest.fixture
def prompt():
    return build_prompt(torch.tensor(TOKENS), GRIDS, IMAGE, 2)


def request(prompt, digests=(b"a", b"b", b"c"), max_answer=3, **more):
    return Request(Context(prompt), SamplingParams(), max_answer, list(digests), None, **more)


def test_a_prompt_knows_where_its_tokens_and_frames_stand(prompt):
    assert prompt.tokens == TOKENS
    assert prompt.positions.tolist() == [0, 4, 5, 8, 11, 12, 13, 14, 15] and prompt.end.position == 16
    assert prompt.visible.tolist() == [0, 7, 7, 10, 13, 13, 13, 13, 13]
    assert {str(prompt.positions.dtype), str(prompt.visible.dtype)} == {"int32"}
    assert prompt.frame_rows == [1, 3, 4]
    assert prompt.frame_ends == [7, 10, 13]
    assert prompt.frame_grids == [(4, 6), (2, 4), (2, 4)]
    context = Context(prompt)
    assert (context.num_frames, context.num_vision) == (3, 13)
    assert [context.patches(frame) for frame in range(3)] == [24, 8, 8]


def test_a_prompt_of_text_has_no_frames():
    context = Context(build_prompt(torch.tensor([1, 2]), [], IMAGE, 2))
    assert (context.num_frames, context.num_vision, context.visible(0, 2).tolist()) == (0, 0, [0, 0])
    assert context.frames_between(0, 2) == (0, 0) and context.vision_range(0, 0) == (0, 0)


def test_image_tokens_and_frames_must_match():
    with pytest.raises(ValueError, match="2 image tokens"):
        build_prompt(torch.tensor([IMAGE, IMAGE]), [(1, 2, 2)], IMAGE, 2)


@pytest.mark.parametrize(
    ("start", "stop", "frames"),
    [(0, 9, (0, 3)), (0, 1, (0, 0)), (1, 2, (0, 1)), (2, 3, (1, 1)), (2, 4, (1, 2)), (4, 5, (2, 3)), (5, 9, (3, 3))],
)
def test_frames_are_found_by_their_image_tokens(prompt, start, stop, frames):
    assert Context(prompt).frames_between(start, stop) == frames


@pytest.mark.parametrize(
    ("first", "last", "tokens"),
    [
        (0, 3, (0, 13)),
        (0, 1, (0, 7)),
        (1, 2, (7, 10)),
        (1, 3, (7, 13)),
        (0, 0, (0, 0)),
        (2, 2, (10, 10)),
        (3, 3, (13, 13)),
    ],
)
def test_frames_have_ranges_of_vision_tokens(prompt, first, last, tokens):
    assert Context(prompt).vision_range(first, last) == tokens


def test_positions_go_on_after_the_prompt(prompt):
    one = request(prompt)
    assert [one.context.position(row) for row in (0, 3, 8, 9, 12)] == [0, 8, 15, 16, 19]


def test_keys_are_of_full_blocks_and_everything_before_them(prompt):
    one = request(prompt)
    first = block_key(b"", TOKENS[:4], [b"a", b"b"])
    second = block_key(first, TOKENS[4:8], [b"c"])
    assert one.keys(4) == [first, second]
    one.context.answer += [7, 8, 9]
    assert one.keys(4) == [first, second, block_key(second, [6, 7, 8, 9], [])]
    first = block_key(b"", TOKENS[:3], [b"a"])
    second = block_key(first, TOKENS[3:6], [b"b", b"c"])
    assert request(prompt).keys(3) == [first, second, block_key(second, TOKENS[6:], [])]
    assert request(prompt).keys(10) == []


def test_keys_end_at_a_frame_that_is_not_known_yet(prompt):
    one = request(prompt, [b"a", None, b"c"])
    assert one.keys(3) == [block_key(b"", TOKENS[:3], [b"a"])]
    one.digests[1] = b"b"
    assert one.keys(3) == request(prompt).keys(3) and len(one.keys(3)) == 3


@pytest.mark.parametrize(
    ("decoding", "answer", "in_flight", "matched", "wants"),
    [
        (False, 0, 0, False, False),
        (True, 0, 1, False, True),
        (True, 1, 1, False, True),
        (True, 1, 2, False, False),
        (True, 2, 0, False, True),
        (True, 3, 0, False, False),
        (True, 1, 0, True, True),
        (True, 1, 1, True, False),
        (False, 1, 0, True, False),
    ],
)
def test_a_token_is_wanted_while_there_is_room_and_the_form_of_the_answer_is_known(
    prompt, decoding, answer, in_flight, matched, wants
):
    one = request(prompt, matcher=SimpleNamespace(mask=b"known") if matched else None)
    one.context.answer += range(answer)
    one.decoding, one.in_flight = decoding, in_flight
    assert one.num_answer == answer
    assert one.wants_token == wants


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_token_is_not_drawn_before_it_is_known_which_ones_may_come(prompt, in_flight):
    one = request(prompt, matcher=SimpleNamespace(mask=b""))
    one.decoding, one.in_flight = True, in_flight
    assert not one.may_draw and not one.wants_token


@pytest.mark.parametrize(
    ("computed", "in_flight", "mask", "waits"),
    [(8, 0, b"", True), (8, 1, b"known", True), (8, 0, b"known", False), (7, 0, b"", False), (9, 0, b"", True)],
)
def test_a_request_waits_for_its_form_when_nothing_else_is_left_to_do(prompt, computed, in_flight, mask, waits):
    one = request(prompt, matcher=SimpleNamespace(mask=mask))
    one.computed, one.in_flight = computed, in_flight
    assert one.is_complete is waits
    free = request(prompt)
    free.computed = computed
    assert free.is_complete is False


def test_a_request_begins_with_nothing_and_as_nobody_elses(prompt):
    one, other = request(prompt), request(prompt)
    assert one.number != other.number and one.seed != other.seed
    assert all(0 <= request(prompt).seed < 2**63 for _ in range(64))
    one.context.answer.append(5)
    one.pixels[0] = torch.zeros(0)
    assert other.context.tokens(0, 9) == prompt.tokens == TOKENS and not other.context.answer and not other.pixels
    assert (one.computed, one.encoded, one.committed, one.cached, one.in_flight, one.preemptions) == (0,) * 6
    assert (one.slot, one.decoding, one.ended, one.waits_for, one.owner, one.matcher) == (-1, False, False, *[None] * 3)
    assert one.vision_chunk == 64 and one.pixel_scale == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_what_is_no_longer_in_the_cache_is_forgotten_and_the_answer_kept(prompt):
    one = request(prompt)
    one.context.answer.append(5)
    one.computed, one.encoded, one.committed, one.decoding, one.slot = 8, 3, 2, True, 4
    one.text_pages, one.vision_pages, one.blocks = [(1,)], [2], [object()]
    one.forget_progress()
    assert (one.computed, one.encoded, one.committed, one.decoding, one.slot) == (0, 0, 0, False, -1)
    assert (one.text_pages, one.vision_pages, one.blocks, one.num_answer) == ([], [], [], 1)
