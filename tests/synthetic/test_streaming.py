"""What is said in a stream is true of the frames so far, and comes at the right frame."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.synthetic import COLOURS, KINDS
from mossvl.synthetic.editions import SECOND
from mossvl.synthetic.live_records import slots_of
from mossvl.synthetic.pictures import NUMBERS
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.world import SHOWN, Split, World, split_of

SPLITS, SEEDS = st.sampled_from(list(Split)), st.integers(0, 2**40)
NAME = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")


def drawn(task, split, seed):
    sample = STREAMS[task](World(split, seed, 1.0))
    return sample, [{(thing.colour, thing.kind) for thing in sample.clip.at(time).things} for time in sample.times]


def new(frames):
    """For each frame, the pairs that the frame before does not show."""
    return [set(), *(after - before for before, after in pairwise(frames))]


@pytest.mark.parametrize("task", STREAMS)
def test_a_seed_gives_the_same_stream(task):
    first, again, other = (STREAMS[task](World(Split.TRAIN, seed)) for seed in (1, 1, 2))
    assert first == again != other


@given(st.sampled_from(sorted(STREAMS)), SPLITS, SEEDS)
def test_streams_show_and_ask_for_what_is_of_their_split(task, split, seed):
    sample, frames = drawn(task, split, seed)
    everything = [sample.clip.at(number / sample.clip.rate) for number in range(sample.clip.num_frames)]
    shown = {(thing.colour, thing.kind) for scene in everything for thing in scene.things}
    assert shown <= set(SHOWN[split])
    asked = {pair for prompt in sample.prompts for pair in NAME.findall(prompt.text)}
    assert all(split_of(*pair) == split for pair in asked & shown)
    assert sample.times == tuple(range(len(frames))) and 6 <= len(frames) <= 20
    assert sample.prompts[0].frame == 0 and all(0 <= line.frame < len(frames) for line in sample.replies)
    assert len({line.frame for line in sample.replies}) == len(sample.replies)


@given(SPLITS, SEEDS)
def test_an_alert_comes_at_each_frame_that_first_shows_the_thing(split, seed):
    sample, frames = drawn("alert", split, seed)
    (wanted,) = NAME.findall(sample.prompts[0].text)
    assert (
        [line.frame for line in sample.replies] == [i for i, pairs in enumerate(new(frames)) if wanted in pairs] != []
    )
    assert {line.text for line in sample.replies} <= {
        "Now.", *(f"{words} {' '.join(wanted)}{rest}" for words in ("A", "An", "The", "I see a", "I see an")
        for rest in (" appears.", " comes.", "."))
    }  # fmt: skip


@given(SPLITS, SEEDS)
def test_nothing_is_said_where_what_is_waited_for_never_comes(split, seed):
    sample, _ = drawn("silent", split, seed)
    (wanted,) = NAME.findall(sample.prompts[0].text)
    for number in range(sample.clip.num_frames):
        assert wanted not in {(one.colour, one.kind) for one in sample.clip.at(number / sample.clip.rate).things}
    assert sample.replies == [] and {slot for turn in slots_of(sample) for slot in turn} == {"<|silence|>"}


@given(SPLITS, SEEDS)
def test_counts_follow_what_has_come_so_far(split, seed):
    sample, frames = drawn("count_aloud", split, seed)
    come = [i for i, pairs in enumerate(new(frames)) if pairs]
    assert [line.frame for line in sample.replies] == come and all(len(new(frames)[i]) == 1 for i in come)
    for number, line in enumerate(sample.replies, 1):
        assert line.text in (str(number), f"{NUMBERS[number].capitalize()}.", f"{NUMBERS[number].capitalize()} so far.")


@given(SPLITS, SEEDS)
def test_reports_come_at_each_change_and_at_no_other_frame(split, seed):
    sample, frames = drawn("report", split, seed)
    changed = [i for i in range(1, len(frames)) if frames[i] != frames[i - 1]]
    assert [line.frame for line in sample.replies] == changed
    for frame, text in sample.replies:
        assert text.count(".") == len({kind for _, kind in frames[frame] ^ frames[frame - 1]}) or "becomes" in text
        for pair in NAME.findall(text):
            assert pair in set().union(*frames[: frame + 1])


@given(SPLITS, SEEDS)
def test_arrivals_are_named_and_nothing_else_is_said(split, seed):
    sample, frames = drawn("arrivals", split, seed)
    kinds = [Counter(kind for _, kind in pairs) for pairs in frames]
    come = {frame: after - before for frame, (before, after) in enumerate(pairwise(kinds), 1) if after - before}
    assert [line.frame for line in sample.replies] == list(come)
    for frame, text in sample.replies:
        names = NAME.findall(text)
        assert set(names) <= frames[frame] and Counter(kind for _, kind in names) == come[frame]


@given(st.sampled_from(sorted(STREAMS)), SEEDS)
def test_prompts_of_the_second_edition_are_typed_in_every_way(task, seed):
    typed, plain = (STREAMS[task](World(Split.TRAIN, seed, 1.0, replace(SECOND, styled=often))) for often in (1.0, 0.0))
    assert [line.frame for line in typed.prompts] == [line.frame for line in plain.prompts]
    assert typed.replies == plain.replies and typed.clip == plain.clip
    letters = [[re.sub(r"[^a-z]", "", line.text.lower()) for line in sample.prompts] for sample in (typed, plain)]
    assert all(asked in said for said, asked in zip(*letters, strict=True))


@given(SPLITS, SEEDS)
def test_a_question_in_the_middle_is_answered_at_once_and_the_task_goes_on(split, seed):
    sample, frames = drawn("question", split, seed)
    _, (asked, prompt) = sample.prompts
    (answer,) = [line.text for line in sample.replies if line.frame == asked]
    number = len(frames[asked])
    if "How many" in prompt:
        assert answer in (
            str(number),
            "Now there is one thing." if number == 1 else f"Now there are {NUMBERS[number]} things.",
        )
    else:
        assert set(NAME.findall(answer.lower())) == frames[asked]
    before, after = slots_of(sample, tokens_per_slot=20)
    assert len(before) == asked + 1 and len(after) == len(frames) - asked + 1
    assert after[:2] == ["<|silence|>", f"<|response|>{answer}<|silence|>"]


def test_some_questions_come_while_the_task_goes_on():
    samples = [drawn("question", Split.TRAIN, seed)[0] for seed in range(40)]
    assert any(sample.replies[-1].frame > sample.prompts[1].frame for sample in samples)
    assert any(sample.replies[0].frame < sample.prompts[1].frame for sample in samples)


@given(SPLITS, SEEDS)
def test_an_interruption_cuts_the_reply_and_is_obeyed(split, seed):
    sample, frames = drawn("interrupted", split, seed)
    first, second = slots_of(sample, tokens_per_slot=6)
    begin, cut = sample.replies[0].frame, sample.prompts[1].frame
    assert len(first) == cut + 1 and first[: begin + 1] == ["<|silence|>"] * (begin + 1)
    assert all(slot.startswith("<|response|>") and not slot.endswith("<|silence|>") for slot in first[begin + 1 :])
    said = "".join(slot.removeprefix("<|response|>") for slot in first[begin + 1 :])
    assert said and sample.replies[0].text.startswith(said) and said != sample.replies[0].text
    answers = [line.text for line in sample.replies[1:]]
    assert second[1:] == [
        *(f"<|response|>{answer}<|silence|>" for answer in answers),
        *["<|silence|>"] * (len(frames) - cut - len(answers)),
    ]
    if "left" in sample.prompts[1].text or "right" in sample.prompts[1].text:
        things = sorted(sample.clip.at(0).things, key=lambda thing: thing.x)
        thing = things[0 if "left" in sample.prompts[1].text else -1]
        assert answers == [f"The {thing.colour} {thing.kind}."]
