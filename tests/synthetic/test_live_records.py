"""Streams as records, files and cameras are the same stream."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.data.index import RecordIndex
from mossvl.data.live import Stream, read_example
from mossvl.data.records import unread_keys
from mossvl.media.video import open_clip
from mossvl.options import MediaOptions
from mossvl.processing.stream import REALTIME
from mossvl.synthetic.live_records import camera, live_samples, record_of, slots_of, words, write_records
from mossvl.synthetic.scene import Clip
from mossvl.synthetic.streaming import STREAMS, Line, LiveSample
from mossvl.synthetic.world import Split
from mossvl.training.dataset import FileExamples

S, R = "<|silence|>", "<|response|>"


def sample(frames, prompts, replies):
    return LiveSample("made", Clip([], frames), tuple(range(frames)), prompts, replies)


@pytest.mark.parametrize(
    ("prompts", "replies", "expected"),
    [
        ([(0, "?")], [], [[S, S, S, S, S]]),
        ([(0, "?")], [(1, "a")], [[S, S, f"{R}a{S}", S, S]]),
        ([(0, "?")], [(0, "a b"), (1, "c")], [[S, f"{R}a b", S, f"{R}c{S}", S]]),
        ([(0, "?")], [(0, "a b c d e")], [[S, f"{R}a b", f"{R} c d", f"{R} e{S}", S]]),
        ([(0, "?")], [(0, "a b c"), (1, "d"), (3, "e")], [[S, f"{R}a b", f"{R} c{S}", f"{R}d{S}", f"{R}e{S}"]]),
        ([(0, "?")], [(3, "a b c")], [[S, S, S, S, f"{R}a b"]]),
        ([(0, "?")], [(3, "a b")], [[S, S, S, S, f"{R}a b"]]),
        ([(0, "?"), (2, "!")], [(1, "a b c"), (3, "d")], [[S, S, f"{R}a b"], [S, S, f"{R}d{S}"]]),
        ([(0, "?"), (0, "!")], [(1, "a")], [[S], [S, S, f"{R}a{S}", S, S]]),
    ],
    ids=[
        "silent",
        "one slot",
        "full",
        "spread",
        "one after the other",
        "cut by the end",
        "whole at the end",
        "cut",
        "at once",
    ],
)
def test_replies_are_spread_over_slots_until_a_prompt_cuts_them(prompts, replies, expected):
    made = sample(4, [Line(*one) for one in prompts], [Line(*one) for one in replies])
    assert slots_of(made, tokens_per_slot=3) == expected


@given(st.text(max_size=40).filter(lambda text: text == text.rstrip()))
def test_words_are_the_whole_text(text):
    assert "".join(words(text)) == text


@given(st.sampled_from(list(Split)), st.integers(0, 2**40))
def test_records_are_read_back_as_the_streams_that_they_are(split, seed):
    for made in live_samples(split, seed, len(STREAMS)):
        stream = read_example(record_of(made, "/a.mp4"), Path())
        assert isinstance(stream, Stream) and stream.system_prompt == REALTIME
        assert [turn.prompt for turn in stream.turns] == [prompt.text for prompt in made.prompts]
        assert [list(turn.slots) for turn in stream.turns] == slots_of(made)
        assert stream.videos == (("/a.mp4", tuple(map(float, made.times))),)


def test_tokens_of_a_slot_are_those_of_the_given_tokenizer():
    made = sample(3, [Line(0, "?")], [Line(0, "abcde")])
    turns = record_of(made, "a.mp4", "Watch.", tokens_per_slot=3, tokenise=list)["messages"]
    assert turns[0] == {"role": "system", "content": "Watch."}
    assert turns[2]["content"] == f"{S}<|video|>{R}ab<|video|>{R}cd<|video|>{R}e{S}"


def test_a_seed_gives_the_same_streams_one_after_the_other_and_another_gives_others():
    first, again, other = (list(live_samples(Split.TRAIN, seed, 4, ["alert", "report"])) for seed in (1, 1, 2))
    assert first == again and [one.task for one in first] == ["alert", "report"] * 2
    assert first[0] != first[2] and all(one not in other for one in first)


def test_unknown_tasks_are_told():
    with pytest.raises(ValueError, match="unknown tasks sing; known: alert, silent"):
        next(live_samples(Split.TRAIN, 0, 1, ["alert", "sing"]))


def test_files_show_what_a_camera_shows_and_can_be_learned_from(tmp_path, processor):
    samples = list(live_samples(Split.TEST, 5, 2, ["alert", "report"]))
    (tmp_path / "live").mkdir()
    path = write_records(iter(samples), str(tmp_path / "live"), size=64, system_prompt="Watch.")
    assert path == tmp_path / "live" / "live.jsonl"
    assert [json.loads(line)["metadata"]["task"] for line in path.read_text().splitlines()] == ["alert", "report"]
    assert not any(unread_keys(json.loads(line)) for line in path.read_text().splitlines())
    examples = FileExamples(processor, RecordIndex.build(path), path.parent, MediaOptions(), bad="stop")
    for number, made in enumerate(samples):
        assert examples[number].times == made.times
        with open_clip(path.parent / f"{number:05d}.mp4") as clip:
            filmed = list(clip.read([clip.index_at(time) for time in made.times]))
        shown = list(camera(made, size=64))
        assert [time for time, _ in shown] == list(made.times)
        for picture, (_, drawn) in zip(filmed, shown, strict=True):
            assert np.abs(picture.astype(int) - np.asarray(drawn)).mean() < 6
        moved = np.abs(np.diff([np.asarray(drawn, float).ravel() for _, drawn in shown], axis=0)).mean(1)
        assert all(moved[line.frame - 1] > 0 for line in made.replies)


def test_a_camera_shows_frames_at_its_own_pace():
    (made,) = live_samples(Split.TRAIN, 0, 1)
    shown = list(camera(made, fps=2.5, size=32))
    assert [time for time, _ in shown] == [number / 2.5 for number in range(int(made.clip.seconds * 2.5))]
    assert {picture.size for _, picture in shown} == {(32, 32)}
