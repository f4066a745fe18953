"""Live records are read as streams, and what is wrong with one is told."""

import copy
from pathlib import Path

import pytest

from mossvl.data.live import Stream, Turn, read_example
from mossvl.errors import DataError, InputError
from mossvl.processing.stream import REALTIME

S, R, F = "<|silence|>", "<|response|>", "<|video|>"


def record(*answers, prompts=None, segments=None, **others):
    """A live record of these answers, with an instant each second for all frames."""
    prompts = prompts or ["Watch.", *["And now?"] * (len(answers) - 1)]
    turns = [
        {"role": role, "content": text}
        for pair in zip(prompts, answers, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    frames = sum(answer.count(F) for answer in answers)
    segments = [[time] for time in range(frames)] if segments is None else segments
    return {"messages": turns, "videos": [{"video_path": "clip.mp4", "segments": segments}], **others}


def read(given):
    return read_example(given, Path("media"))


def test_slots_and_frames_alternate_and_one_turn_holds_several_replies():
    answers = [f"{S}{F}{R}A red{F}{R} car.{S}{F}{S}{F}{R}A bus.{S}", f"{R}Wait{F}{R}.{S}"]
    assert read(record(*answers, images=[])) == Stream(
        REALTIME,
        (
            Turn("Watch.", (S, f"{R}A red", f"{R} car.{S}", S, f"{R}A bus.{S}")),
            Turn("And now?", (f"{R}Wait", f"{R}.{S}")),
        ),
        (("media/clip.mp4", (0.0, 1.0, 2.0, 3.0, 4.0)),),
    )


@pytest.mark.parametrize(
    ("answer", "slots"),
    [
        (f"{F}{S}", ("", S)),
        (f"A car.{S}", (f"A car.{S}",)),
        (f"{R}{F}{R}A car.{S}", (R, f"{R}A car.{S}")),
        (f"{S}<video>{S}", (S, S)),
    ],
    ids=["no leading slot", "a reply without a frame", "nothing said yet", "another placeholder"],
)
def test_what_a_slot_may_be(answer, slots):
    instants = [[0.5]] * (len(slots) - 1)
    assert read(record(answer, segments=instants or None)).turns == (Turn("Watch.", slots),)


def test_a_prompt_that_is_followed_by_another_gets_no_slot():
    given = record(f"{S}{F}{S}")
    given["messages"].insert(0, {"role": "user", "content": "Hello."})
    assert read(given).turns == (Turn("Hello.", ("",)), Turn("Watch.", (S, S)))


def test_a_system_turn_may_mention_state_tokens_and_an_empty_one_stays_empty():
    given = record(f"{S}{F}{S}", prompts=[""])
    for text in (f"Stay silent with {S}.", ""):
        assert read({**given, "messages": [{"role": "system", "content": text}, *given["messages"]]}) == Stream(
            text, (Turn("", (S, S)),), (("media/clip.mp4", (0.0,)),)
        )
        assert read({**given, "system_prompt": text}).system_prompt == text


def test_several_videos_follow_each_other():
    videos = [{"video_path": f"/{name}.mp4", "segments": times} for name, times in (("a", [[0], [1.5]]), ("b", [[2]]))]
    stream = read({**record(f"{S}{F}{S}{F}{S}{F}{S}"), "videos": videos})
    assert stream.videos == (("/a.mp4", (0.0, 1.5)), ("/b.mp4", (2.0,))) and stream.times == (0.0, 1.5, 2.0)
    assert stream.first(1) == [("/a.mp4", (0.0,))] and stream.first(2) == [("/a.mp4", (0.0, 1.5))]
    assert stream.first(3) == list(stream.videos)


def test_contents_in_parts_and_other_forms_of_records_are_read_alike():
    expected = read(record(f"{S}{F}{R}A car.{S}"))
    parts = record("")
    parts["messages"][1]["content"] = [
        {"type": "text", "text": S}, {"type": "video"}, {"text": f"{R}A "}, f"car.{S}",
    ]  # fmt: skip
    parts["messages"][0]["content"] = {"type": "text", "text": "Watch."}
    parts["videos"][0]["segments"] = [[0]]
    sharegpt = {
        "conversations": [{"from": "human", "value": "Watch."}, {"from": "gpt", "value": f"{S}{F}{R}A car.{S}"}],
        "video": parts["videos"][0],
    }
    pair = {"prompt": "Watch.", "response": f"{S}{F}{R}A car.{S}", "videos": parts["videos"]}
    assert read(parts) == read(sharegpt) == read(pair) == expected


def test_an_answer_without_state_tokens_is_no_live_record():
    assert read({"prompt": "Why?", "response": "So."}) == [
        {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."},
    ]  # fmt: skip


BAD = {
    "fewer instants": (record(f"{S}{F}{S}{F}{S}", segments=[[0]]), r"2 <\|video\|> placeholders, but .* 1 instants"),
    "more instants": (record(f"{S}{F}{S}", segments=[[0], [1]]), r"1 <\|video\|> placeholders, but .* 2 instants"),
    "no videos": ({**record(f"{S}{F}{S}"), "videos": []}, "1 .* placeholders, but .* 0 instants"),
    "equal times": (record(f"{S}{F}{S}{F}{S}", segments=[[1], [1]]), "frame 2 is at 1 s, after one at 1 s; .*ascend"),
    "falling times": (record(f"{S}{F}{S}{F}{S}", segments=[[1.5], [0.25]]), "frame 2 is at 0.25 s, after one at 1.5 s"),
    "a span": (record(f"{S}{F}{S}", segments=[[0, 1]]), r"clip\.mp4: segment \[0\.0, 1\.0\] is a span"),
    "no number": (record(f"{S}{F}{S}", segments=[["1"]]), r"clip\.mp4: segment \['1'\] must be"),
    "a negative time": (record(f"{S}{F}{S}", segments=[[-1]]), r"segment \[-1\] must be"),
    "no segments": ({**record(f"{S}{F}{S}"), "videos": ["clip.mp4"]}, 'clip.mp4: a video of a live record needs "seg'),
    "times of segments": (
        {**record(f"{S}{F}{S}"), "videos": [{"video_path": "clip.mp4", "segments": [[0]], "times": "segment"}]},
        "instant of each frame, in seconds from the start of the clip",
    ),
    "images": ({**record(f"{S}{F}{S}"), "images": ["a.png"]}, "this one has images, too"),
    "a token with a typo": (record(f"{S}{F}<|silent|>"), r"turn 2: unknown token <\|silent\|>; did you mean .*silence"),
    "an unknown token": (record(f"{S}{F}<|standby|>"), r"unknown token <\|standby\|>; known: .*silence.*response"),
    "a control token": (record(f"{S}{F}{R}A.<|im_end|>"), r"unknown token <\|im_end\|>"),
    "an image's place": (record(f"{S}<|image|>{S}{F}{S}"), r"unknown token <\|image\|>"),
    "no decision": (record(f"{S}{F}{F}{S}"), "turn 2, after frame 1: there is no decision; a slot is"),
    "no last decision": (record(f"{S}{F}{S}{F}"), "turn 2, after frame 2: there is no decision"),
    "no decision at all": (record(F), "after frame 1: there is no decision"),
    "a reply that does not begin": (record(f"{S}{F}A car.{S}"), r"after frame 1: 'A car.*' is no slot"),
    "a reply that never ends": (record(f"A car.{F}{S}"), "before the first frame: 'A car.' is no slot"),
    "two replies in a slot": (record(f"{S}{F}{R}A.{S}{R}B."), "after frame 1: .* is no slot"),
    "text after silence": (record(f"{S}\n{F}{S}"), r"before the first frame: '<\|silence\|>\\n' is no slot"),
    "two beginnings": (record(f"{S}{F}{R}A{R}B"), "after frame 1: .* is no slot"),
    "a frame of the user": (record(f"{S}{F}{S}", prompts=["Look: <image>"]), "turn 1 is the user's and holds <image>"),
    "no prompt": ({"messages": [{"role": "assistant", "content": S}]}, "turn 1 is the assistant's; a stream is an"),
    "two answers": (
        {"messages": [*record(S)["messages"], {"role": "assistant", "content": S}]},
        "turn 3 is the assistant's; a stream is an optional system turn",
    ),
    "a late system turn": (
        {"messages": [*record(S)["messages"], {"role": "system", "content": "?"}]},
        "turn 3 is the system's; a stream is",
    ),
    "a late system turn after a system turn": (
        {"messages": [{"role": "system", "content": "?"}, *record(S)["messages"], {"role": "system", "content": "?"}]},
        "turn 4 is the system's; a stream is",
    ),
    "a prompt at the end": (
        {"messages": [*record(S)["messages"], {"role": "user", "content": "Still there?"}]},
        "the last turn is the user's, 'Still there",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told(given, told):
    before = copy.deepcopy(given)
    with pytest.raises(InputError, match=told):
        read(given)
    assert given == before


def test_mistakes_of_every_record_are_told_of_live_ones_too():
    with pytest.raises(DataError, match="did you mean 'videos'"):
        read({**record(f"{S}{F}{S}"), "clips": ["clip.mp4"]})


def test_leading_slots_are_dropped_in_a_share_of_the_turns_and_replies_never():
    stream = read(record(*[f"{S}{F}{S}"] * 400))
    dropped = stream.without_leading_slots(0.25, "seed")
    assert dropped == stream.without_leading_slots(0.25, "seed") != stream.without_leading_slots(0.25, "other")
    assert 70 < sum(turn.slots == ("", S) for turn in dropped.turns) < 130
    assert all(turn.slots in (("", S), (S, S)) for turn in dropped.turns)
    assert stream.without_leading_slots(0.0, "seed") == stream
    spoken = read(record(f"{R}Yes.{S}{F}{S}", S))
    assert spoken.without_leading_slots(1.0, "seed") == spoken
