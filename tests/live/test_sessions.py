"""Many sessions and requests beside each other; their pace, what they drop, and how they end."""

import asyncio
import gc
import random
import threading

import numpy as np
import pytest
import torch
from live_streams import Watched, context_drawn, picture, request_of, talkative, until

import mossvl
from mossvl.errors import ContextLengthError, InputError, OptionError, PromptError, SessionClosed
from mossvl.live.events import Closed, Decision, Dropped, Limit, Seen, Silence, Text
from mossvl.options import GenerationOptions


@pytest.fixture(scope="module")
def talker(loaded):
    return talkative(*loaded)


@pytest.fixture(scope="module")
def speaker(loaded):
    """A model that never falls silent."""
    return talkative(*loaded, factor=-1)


@pytest.fixture
def llm(talker, processor):
    with mossvl.MossVL(talker, processor, memory=1 << 26) as llm:
        yield llm


@pytest.fixture
def speaking(speaker, processor):
    with mossvl.MossVL(speaker, processor, memory=1 << 24) as llm:
        yield llm


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def begin(llm, **options):
    options = {"system_prompt": "", "tokens_per_second": None, **options}
    return Watched(llm.live("Go.", **options), "")


def told(watched, kind):
    watched.events += watched.session.take()
    return [one for one in watched.events if isinstance(one, kind)]


def blocked(llm):
    """Keep the engine's thread busy until the returned function is called."""
    free, busy = threading.Event(), threading.Event()
    llm.engine.loop.inbox.put(lambda: (busy.set(), free.wait(60)))
    assert busy.wait(60)
    return free.set


# --- beside each other -----------------------------------------------------------------------------------------------


def drive(watched, seed, frames=5):
    """Show a session frames and ask it, slot by slot → the tokens that it has drawn, and its raw strings."""
    rng = random.Random(seed)
    for number in range(frames):
        seen, known = watched.decisions, len(watched.pictures)
        watched.pictures.append(seed * 100 + known)
        image = picture(seed * 100 + known)
        if rng.random() < 0.3:
            watched.session.say(f"Question {number}?", image, float(number))
        else:
            watched.session.push(image, float(number))
        watched.decide(seen + 1)


def alone(model, processor, number, **options):
    with mossvl.MossVL(model, processor, memory=1 << 24) as llm:
        watched = begin(llm, tokens_per_slot=4, **options)
        watched.decide(1)
        drive(watched, number)
        watched.rest()
        return context_drawn(request_of(watched.session).context), watched.raw


@pytest.mark.parametrize("options", [{}, {"window_frames": 2}, {"do_sample": True, "seed": 5}], ids=str)
def test_a_session_among_sessions_and_requests_is_the_session_alone(options, llm, talker, processor):
    count = 16
    expected = {seed: alone(talker, processor, seed, **options) for seed in range(0, count, 5)}
    sessions = [begin(llm, tokens_per_slot=4, **options) for _ in range(count)]
    ask = GenerationOptions(max_new_tokens=40, ignore_eos=True)
    handles = [llm.submit({"prompt": f"{n}?", "images": [picture(n)]}, ask) for n in range(count)]

    def run(seed):
        sessions[seed].decide(1)
        drive(sessions[seed], seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for seed, (drawn, raw) in expected.items():
        sessions[seed].rest()
        assert context_drawn(request_of(sessions[seed].session).context) == drawn
        assert sessions[seed].raw == raw
    assert all(len(handle.result(60).token_ids) == 40 for handle in handles)


# --- pace ------------------------------------------------------------------------------------------------------------


def test_a_session_speaks_at_its_pace(speaking):
    clock = Clock()
    watched = begin(speaking, tokens_per_second=4.0, clock=clock, ignore_eos=True)
    until(lambda: len(request_of(watched.session).context.answer) == 1)
    for count in range(2, 9):
        clock.now += 0.2
        until(lambda: request_of(watched.session).rests)
        assert len(request_of(watched.session).context.answer) == count - 1
        clock.now += 0.05
        until(lambda count=count: len(request_of(watched.session).context.answer) == count)
    watched.session.push(picture(0), 1.0)  # A decision waits for nothing.
    until(lambda: len(told(watched, Seen)) == 1)
    until(lambda: request_of(watched.session).rests)
    assert len(request_of(watched.session).context.answer) == 9
    clock.now += 100.0  # What was not said is not made up for.
    until(lambda: len(request_of(watched.session).context.answer) == 10)
    clock.now += 0.2
    until(lambda: request_of(watched.session).rests)
    assert len(request_of(watched.session).context.answer) == 10


def test_a_silent_session_costs_nothing(llm, monkeypatch):
    watched = begin(llm, tokens_per_slot=1)
    watched.decide(1)
    watched.rest()
    steps, checks = [], []
    launch, check = llm.engine.runner.launch, llm.engine.loop._check
    monkeypatch.setattr(llm.engine.runner, "launch", lambda step: steps.append(step) or launch(step))
    monkeypatch.setattr(llm.engine.loop, "_check", lambda: checks.append(0) or check())
    threading.Event().wait(0.3)
    assert not steps and len(checks) <= 1
    watched.session.push(picture(0), 0.0)
    watched.decide(2)
    assert len(steps) <= 3


def test_tokens_after_an_input_are_limited_and_renewed(speaking):
    watched = begin(speaking, max_new_tokens=5, ignore_eos=True)
    until(lambda: len(told(watched, Limit)) == 1)
    assert len(watched.rest().answer) == 5
    watched.session.push(picture(0), 0.0)
    until(lambda: len(told(watched, Limit)) == 2)
    assert len(watched.rest().answer) == 10 and told(watched, Limit)[0].kind == "max_new_tokens"


# --- frames that come too fast ---------------------------------------------------------------------------------------


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


def test_a_push_waits_for_room_where_frames_are_not_dropped(llm):
    watched = begin(llm, when_behind="block", queue=1, tokens_per_slot=1)
    watched.decide(1)
    free = blocked(llm)
    watched.session.push(picture(0), 0.0)
    with pytest.raises(TimeoutError):
        watched.session.push(picture(1), 1.0, timeout=0.01)
    free()
    for number in range(1, 6):
        watched.session.push(picture(number), float(number), timeout=60)
    watched.decide(7)
    assert [one.time for one in told(watched, Seen)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [-1.0, float("nan"), float("inf"), "1", True, 1e9])
def test_a_time_that_is_none_is_refused(time, llm):
    session = llm.live()
    with pytest.raises(InputError, match="time="):
        session.push(picture(0), time)


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


# --- ends ------------------------------------------------------------------------------------------------------------


def test_a_session_that_is_closed_takes_nothing_and_tells_its_end_once(llm):
    with begin(llm).session as session:
        pass
    assert [type(one) for one in session][-1] is Closed and not session.active
    for act in (lambda: session.push(picture(0)), lambda: session.say("x"), session.interrupt, session.final):
        with pytest.raises(SessionClosed):
            act()
    session.close()
    assert session.take() == [] and list(session) == []


def test_a_final_input_ends_the_session_once_it_is_silent(llm):
    watched = begin(llm, max_new_tokens=30)
    watched.session.push(picture(0), 0.0)
    watched.session.say("Last?", picture(1), 1.0, final=True)
    events = list(watched.session)
    assert isinstance(events[-1], Closed) and events[-1].reason == "final"
    assert len([one for one in events if isinstance(one, Seen)]) == 2


def test_a_silent_session_ends_at_once_if_nothing_more_comes(llm):
    watched = begin(llm, max_new_tokens=3)
    watched.rest()
    watched.session.final()
    assert list(watched.session)[-1].reason == "final"


def test_a_session_without_input_ends_after_its_idle_time(llm):
    clock = Clock()
    watched = begin(llm, idle_timeout=60.0, clock=clock, max_new_tokens=3)
    watched.rest()
    clock.now += 59.0
    watched.session.push(picture(0), 0.0)
    until(lambda: told(watched, Seen))
    clock.now += 59.0
    watched.rest()
    assert watched.session.active
    clock.now += 2.0
    assert list(watched.session)[-1].reason == "idle"


def test_a_session_that_nobody_holds_is_ended(llm):
    session = llm.live()
    until(lambda: llm.engine.active == 1)
    del session
    gc.collect()
    until(lambda: not llm.engine.active)


def test_a_session_that_fails_tells_why_and_no_other_one_does(llm, monkeypatch):
    other, failing = begin(llm, tokens_per_slot=2), begin(llm, tokens_per_slot=2)
    failing.decide(1)

    def fail(context):
        raise RuntimeError("injected")

    monkeypatch.setattr(failing.session._director, "next", fail)
    failing.session.push(picture(0), 0.0)
    closed = list(failing.session)[-1]
    assert closed.reason == "error" and "injected" in str(closed.error) and failing.session.error is closed.error
    other.decide(1)
    other.session.push(picture(0), 0.0)
    other.decide(2)
    assert closed.to_dict()["error"] == "injected"


def test_events_are_read_with_asyncio_and_listeners_are_called(llm):
    async def read():
        events = []
        async with llm.live("Go.", tokens_per_second=None, tokens_per_slot=3) as session:
            async for event in session:
                events.append(event)
                if isinstance(event, Decision) and session.active:
                    if event.time is None:
                        await asyncio.to_thread(session.push, picture(0), 0.0)
                    else:
                        session.close(0)
        return events

    events = asyncio.run(asyncio.wait_for(read(), 60))
    assert isinstance(events[-1], Closed) and sum(isinstance(one, Decision) for one in events) == 2
    called = []
    session = llm.live(tokens_per_slot=2)
    session.when_changed(lambda: called.append(0))
    until(lambda: len(called) > 1)
    session.close()


def test_a_reader_that_reads_nothing_keeps_little(llm, monkeypatch):
    monkeypatch.setattr("mossvl.live.outbox.MOST_UNREAD", 8)
    watched = begin(llm, tokens_per_slot=1)
    for number in range(30):
        watched.session.push(picture(number % 3), float(number))
    until(lambda: not watched.session.pending)
    watched.rest()
    waiting = watched.session._outbox._entries
    assert sum(not isinstance(one.event, Text) for one in waiting) <= 9
    watched.session.close()
    assert isinstance(watched.session.take()[-1], Closed)


def test_ends_at_any_moment_leave_nothing(llm):
    """Sessions that are closed, cancelled, dropped and interrupted at random: no page, pixel, job or thread is left."""
    rng = random.Random(7)
    image = picture(0)
    threads = threading.active_count()
    for _ in range(100):
        sessions = [llm.live("Go.", tokens_per_second=rng.choice([None, 50.0]), window_frames=2) for _ in range(5)]
        for number in range(rng.randrange(4)):
            for session in sessions:
                act = rng.randrange(5)
                if act < 3:
                    session.push(image, float(number))
                elif act == 3:
                    session.say("What?")
                else:
                    session.interrupt()
        for session in sessions:
            end = rng.randrange(3)
            if end == 0:
                session.close()
            elif end == 1:
                session._ending._handle.cancel()
        del session, sessions
        gc.collect()
    until(lambda: not llm.engine.active)
    assert not llm.engine.scheduler.running and not llm.engine.scheduler.waiting
    llm.engine.cache.clear()
    assert llm.engine.cache.num_free == llm.engine.cache.num_pages
    assert threading.active_count() <= threads + 1


# --- the published strings -------------------------------------------------------------------------------------------


def test_events_are_json_objects(llm):
    watched = begin(llm, tokens_per_slot=2)
    watched.decide(1)
    watched.session.say("What?", picture(0), 1.5)
    watched.decide(2)
    watched.session.close()
    watched.events += watched.session.take()
    names = [one.to_dict()["event"] for one in watched.events]
    assert names[-1] == "closed" and {"turn", "seen", "silence", "decision"} <= set(names)
    seen = next(one for one in watched.events if isinstance(one, Seen)).to_dict()
    assert {**seen, "lag": 0} == {"event": "seen", "time": 1.5, "raw": "", "number": 0, "tokens": 7, "lag": 0}
    silence = next(one for one in watched.events if isinstance(one, Silence) and one.inserted).to_dict()
    assert silence["inserted"] and silence["raw"] == "<|silence|>"


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
