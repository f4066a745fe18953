"""Frames that come too fast, and what a session refuses."""

import threading

import numpy as np
import pytest
import torch
from live_streams import begin, blocked, picture, request_of, told, until

from mossvl.errors import (
    ContextLengthError,
    InputError,
    MossVLError,
    OptionError,
    PromptError,
    PushTimeout,
    SessionClosed,
    SessionLimitError,
)
from mossvl.live.events import Dropped, Seen, Turn
from mossvl.live.opening import bounds_of, pages_of
from mossvl.live.options import LiveOptions


@pytest.mark.parametrize(
    ("rule", "dropped", "seen"),
    [("drop_oldest", [(0.0,), (1.0,), (2.0,)], [3.0, 4.0]), ("latest", [(0.0,), (1.0,), (2.0,), (3.0,)], [4.0])],
)
def test_frames_that_are_dropped_are_told(rule, dropped, seen, llm):
    watched = begin(llm, when_behind=rule, queue=2, tokens_per_slot=2)
    watched.decide(1)
    free = blocked(llm)
    given = [watched.session.push(picture(number), float(number)) for number in range(5)]
    assert [one for one in given if one] == dropped and watched.session.pending == len(seen)
    free()
    watched.decide(1 + len(seen))
    assert [one.times for one in told(watched, Dropped)] == dropped
    assert {one.reason for one in told(watched, Dropped)} == {"latest" if rule == "latest" else "queue"}
    assert [one.time for one in told(watched, Seen)] == seen


def test_what_was_asked_with_a_frame_that_is_dropped_is_asked_without(llm):
    watched = begin(llm, when_behind="latest", tokens_per_slot=2)
    watched.decide(1)
    free = blocked(llm)
    watched.session.say("What?", picture(0), 0.0)
    watched.session.push(picture(1), 1.0)
    free()
    watched.decide(2)
    text = llm.processor.tokenizer.decode(watched.rest().prompts[-1].tokens)
    assert "user\nWhat?<|im_end|>" in text and text.endswith("1.0 seconds<|time_end|><|image_pad|><|vision_end|>")


@pytest.fixture
def full(llm):
    """A session whose queue of one frame is full, and which sees nothing until its `free` is called."""
    watched = begin(llm, when_behind="block", queue=1, tokens_per_slot=1)
    watched.decide(1)
    watched.free = blocked(llm)
    watched.session.push(picture(0), 0.0)
    yield watched
    watched.free()


def test_a_push_waits_for_room_where_frames_are_not_dropped(full):
    full.free()
    for number in range(1, 6):
        full.session.push(picture(number), float(number), timeout=60)
    full.decide(7)
    assert [one.time for one in told(full, Seen)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert not told(full, Dropped)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_push_that_finds_no_room_in_time_takes_nothing(full, timeout):
    with pytest.raises(PushTimeout, match="1 frames wait to be seen, and the queue holds 1"):
        full.session.say("What?", picture(1), 1.0, final=True, timeout=timeout)
    full.free()
    full.session.push(picture(2), 0.5, timeout=60)
    full.decide(3)
    assert [one.time for one in told(full, Seen)] == [0.0, 0.5]
    assert not told(full, Turn) and full.session.active


def pushing(session, *given, **options):
    """Push in another thread → the thread, and the errors that it raises."""
    raised = []

    def push():
        try:
            session.push(*given, **options)
        except MossVLError as error:
            raised.append(error)

    thread = threading.Thread(target=push, daemon=True)
    thread.start()
    return thread, raised


def test_the_time_limit_of_a_push_holds_while_another_one_waits(full):
    _, failed = pushing(full.session, picture(1), 1.0)
    limited, raised = pushing(full.session, picture(2), 2.0, timeout=0.01)
    limited.join(20)
    assert [type(error) for error in raised] == [PushTimeout]
    full.free()
    full.decide(3)
    assert [one.time for one in told(full, Seen)] == [0.0, 1.0]
    assert not failed


def test_a_push_that_waits_for_room_ends_with_its_session(full):
    waiting, raised = pushing(full.session, picture(1), 1.0)
    full.session.close(0)
    waiting.join(20)
    assert [type(error) for error in raised] == [SessionClosed]


def test_more_frames_than_the_queue_holds_wait_until_it_is_empty(full):
    frames = [(picture(number), float(number)) for number in range(1, 4)]
    with pytest.raises(PushTimeout):
        full.session.give([], frames, timeout=0)
    full.free()
    full.session.give([], frames)
    full.decide(5)
    assert [one.time for one in told(full, Seen)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_time_limit_that_is_none_is_refused(llm, timeout):
    session = begin(llm, when_behind="block").session
    with pytest.raises(InputError, match="timeout="):
        session.push(picture(0), 0.0, timeout=timeout)
    for wait in (session.wait, session.close):
        with pytest.raises(InputError, match="timeout="):
            wait(timeout)
    assert session.active
    session.push(picture(0), 0.0, timeout=float("inf"))
    assert session.wait(float("inf"))
    session.close(float("inf"))
    assert session.ended


@pytest.mark.parametrize("time", [-1.0, float("nan"), float("inf"), "1", True, 1e9, 10**400])
def test_a_time_that_is_none_is_refused(time, llm):
    session = llm.live()
    with pytest.raises(InputError, match="time="):
        session.push(picture(0), time)


@pytest.mark.parametrize("frame", [picture(0), (picture(0),), (picture(0), 1.0, 2.0), None])
def test_a_frame_without_a_place_for_its_time_is_refused(frame, llm):
    session = llm.live()
    with pytest.raises(InputError, match="no pair"):
        session.give(["Why?"], [frame])


@pytest.mark.parametrize(
    ("prompts", "frames", "behind", "error", "said"),
    [
        ("abc", [], None, PromptError, "prompts='abc' must be a list of texts"),
        (None, [], None, PromptError, "prompts=None must be a list"),
        ([5], [], None, PromptError, "the prompt 5 must be a text"),
        ([], None, None, PromptError, "frames=None must be a list of pairs"),
        ([], picture(0), None, PromptError, "(?s)frames=.* must be a list of pairs"),
        ([], {"a": 1}, None, PromptError, "(?s)frames=.* must be a list of pairs"),
        (["Why?"], [], "never", OptionError, "behind='never' must be 'drop_oldest'"),
    ],
)
def test_what_is_no_list_of_prompts_or_frames_is_refused(prompts, frames, behind, error, said, llm):
    session = llm.live()
    with pytest.raises(error, match=said):
        session.give(prompts, frames, behind=behind)
    assert session.active and not session.pending


def test_nothing_more_may_be_given_alone(llm):
    session = llm.live("Watch.", tokens_per_second=None, max_new_tokens=3)
    session.give([], [], final=True)
    assert list(session)[-1].reason == "final"


@pytest.mark.parametrize("prefill", [5, 1.5, True, "Hi", [5], [{"role": "user"}]])
def test_a_beginning_that_is_no_messages_is_refused(prefill, llm):
    with pytest.raises(PromptError, match="prefill"):
        llm.live(prefill=prefill)


def test_frames_come_in_the_order_of_their_times(llm):
    session = llm.live()
    session.push(picture(0), 2.0)
    session.push(picture(0), 2.0)
    with pytest.raises(InputError, match=r"1\.5 s, is before that of the newest frame, 2 s"):
        session.push(picture(0), 1.5)
    session.push(picture(0))  # By the clock, but not before.
    assert session.active and session.error is None


def test_what_cannot_be_asked_or_seen_is_refused_and_the_session_goes_on(llm):
    session = llm.live(max_context=1024)
    for empty in ("", " ", "<|im_end|>"):
        with pytest.raises(PromptError, match="empty"):
            session.say(empty)
    with pytest.raises(ContextLengthError, match="256 at a time"):
        session.say("x y " * 300)
    with pytest.raises(InputError):
        session.push(b"no picture", 0.0)
    with pytest.raises(InputError, match="there is none"):
        session.say("yes", time=1.0)
    with pytest.raises(PromptError, match="lone surrogate"):
        session.say("\ud800")
    session.push(picture(0), 0.0)
    until(lambda: any(isinstance(one, Seen) for one in session.take()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": "drain"}, "did you mean 'frames'"),
        ({"frames": "all"}, "frames='all' must be 'one_per_slot' or 'drain'"),
        ({"window_seconds": 0}, "window_seconds=0 must be more than 0"),
        ({"max_context": 1 << 30}, "max_context=1073741824 is more than"),
        ({"min_pixels": 9000, "max_pixels": 8000}, "min_pixels=9000 is more than max_pixels=8000"),
        ({"prefill": [{"role": "user", "content": ""}], "prompt": "x"}, "not both"),
    ],
    ids=str,
)
def test_options_are_checked_early(options, message, llm):
    with pytest.raises(OptionError, match=message):
        llm.live(**options)
    assert not llm.engine.active


def test_frames_may_be_arrays_tensors_bytes_and_paths(llm, golden):
    watched = begin(llm, tokens_per_slot=1)
    watched.decide(1)
    path = golden / "media" / "small.png"
    for number, frame in enumerate([path, path.read_bytes(), np.array(mossvl_image(path)), tensor_of(path)]):
        watched.session.push(frame, float(number))
    watched.decide(5)
    digests = request_of(watched.session).digests
    assert len(digests) == 4 and len(set(digests)) == 1


def mossvl_image(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def tensor_of(path):
    return torch.from_numpy(np.array(mossvl_image(path))).permute(2, 0, 1)


def test_more_sessions_than_fit_are_refused_and_one_that_ends_makes_room(make):
    llm, small = make(memory=1 << 24), {"max_context": 1024, "window_frames": 10, "max_pixels": 1 << 14}
    pages = pages_of(llm.engine, bounds_of(llm.engine, llm.processor, LiveOptions(**small)))
    fit = llm.engine.loop.reservations.num_pages // pages
    sessions = [llm.live(**small) for _ in range(fit)]
    with pytest.raises(SessionLimitError, match=rf"holds {fit} live sessions like this one.* {fit} are open"):
        llm.live(**small)
    sessions.pop().close()
    sessions.append(llm.live(**small))
    assert all(session.active for session in sessions)
