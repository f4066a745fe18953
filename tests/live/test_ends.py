"""How sessions end, and what their readers are told."""

import asyncio
import gc
import random
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from live_streams import Clock, begin, picture, request_of, told, until

from mossvl.engine.job import Job
from mossvl.errors import EngineError, InputError, SessionClosed
from mossvl.live.events import Closed, Decision, Seen, Silence, Text
from mossvl.live.session import LiveSession
from mossvl.offline.slot import EngineSlot
from mossvl.options import EngineConfig
from mossvl.sources.files import Load


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


@pytest.mark.parametrize("when", ["with the frame", "after its slot"])
def test_the_last_reply_waits_for_no_frame(speaking, when):
    """Three tokens a slot, but no slot follows the last one."""
    watched = begin(speaking, tokens_per_slot=3, max_new_tokens=20, ignore_eos=True)
    watched.rest()
    watched.session.push(picture(0), 0.0, final=when == "with the frame")
    if when == "after its slot":
        until(lambda: watched.decisions == 2)
        watched.session.final()
    assert list(watched.session)[-1].reason == "final"
    assert watched.session.usage.text_output == 3 + 20


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


@pytest.mark.parametrize("rate", [None, 1e6], ids=["as-fast-as-it-can", "at-a-rate"])
def test_a_session_that_speaks_on_ends_after_its_idle_time_too(rate, speaking):
    clock = Clock()
    session = begin(speaking, idle_timeout=60.0, clock=clock, ignore_eos=True, tokens_per_second=rate).session
    until(lambda: session.usage.text_output > 0)
    clock.now += 61.0
    assert list(session)[-1].reason == "idle"


def test_a_listener_that_closes_its_session_does_not_wait_for_the_end(llm):
    session, ended = begin(llm, tokens_per_slot=2).session, []

    def close():
        if threading.current_thread() is not threading.main_thread() and not ended:
            session.close(60.0)
            ended.append(session.ended)

    session.when_changed(close)
    with suppress(SessionClosed):
        session.push(picture(0), 0.0)  # All else may have been told before.
    assert list(session)[-1].reason == "closed" and ended == [False]


def test_an_interruption_is_no_input(llm):
    clock = Clock()
    watched = begin(llm, idle_timeout=60.0, clock=clock, max_new_tokens=3)
    watched.rest()
    clock.now += 59.0
    watched.session.interrupt()
    until(lambda: not watched.session._inbox.waiting)
    clock.now += 2.0
    until(lambda: watched.session.ended)
    assert watched.session.take()[-1].reason == "idle"


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
    session.push(picture(0), 0.0)
    until(lambda: len(called) > 1)
    session.close()


def test_a_reader_that_reads_nothing_keeps_little_but_every_word(llm, monkeypatch):
    monkeypatch.setattr("mossvl.live.outbox.MOST_UNREAD", 8)
    watched = begin(llm, tokens_per_slot=1, max_context=2048)
    for number in range(30):
        watched.session.push(picture(number % 3), float(number))
    until(lambda: not watched.session.pending)
    drawn = watched.rest().answer
    assert sum(not isinstance(one.event, Text) for one in watched.session._outbox._entries) <= 24
    watched.session.close()
    events = watched.session.take()
    assert isinstance(events[-1], Closed)
    words = llm.processor.tokenizer.decode([one for one in drawn if one not in watched.session._tokens.special])
    assert "".join(one.text for one in events if isinstance(one, Text)).replace("\ufffd", "") == words.replace(
        "\ufffd", ""
    )


def test_ends_at_any_moment_leave_nothing(llm):
    """Sessions that are closed, cancelled, dropped and interrupted at random: no page, pixel, job or thread is left."""
    rng = random.Random(7)
    image, small = picture(0), {"window_frames": 2, "max_context": 512}
    threads = threading.active_count()
    for _ in range(100):
        sessions = [llm.live("Go.", tokens_per_second=rng.choice([None, 50.0]), **small) for _ in range(5)]
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
    assert llm.engine.loop.reservations.sessions == llm.engine.loop.reservations.pages == 0
    assert not llm.engine.scheduler.running and not llm.engine.scheduler.waiting
    llm.engine.cache.clear()
    assert llm.engine.cache.num_free == llm.engine.cache.num_pages
    assert threading.active_count() <= threads + 1


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


def test_caches_are_not_cleared_beneath_an_open_session(llm):
    watched = begin(llm)
    watched.decide(1)
    with pytest.raises(EngineError, match=r"while live sessions are open \(1\); close them first"):
        llm.engine.clear_caches()
    watched.session.close()
    llm.engine.clear_caches()


def test_weights_that_change_beneath_an_open_session_are_refused_until_it_is_closed(talker, processor):
    slot, weight = EngineSlot(), next(talker.parameters())
    session = LiveSession(slot.engine(talker, EngineConfig(memory=1 << 24)), processor)
    until(session.take)
    with torch.no_grad():
        weight.add_(0)
    for _ in range(2):
        with pytest.raises(EngineError, match="once weights have changed"):
            slot.engine(talker)
    session.close()
    assert slot.engine(talker) is session.engine
    slot.close()


@pytest.mark.parametrize("fails", [OSError("no time"), SystemExit("no time"), float("nan")], ids=repr)
@pytest.mark.parametrize("parked", [True, False], ids=["parked", "drawing"])
def test_a_clock_that_fails_ends_its_session_alone(llm, fails, parked):
    clock, failing = Clock(), []

    def told():
        if failing and isinstance(fails, BaseException):
            raise fails
        return fails if failing else clock()

    options = {"idle_timeout": 60.0} if parked else {"tokens_per_second": 1.0, "ignore_eos": True}
    watched, other = begin(llm, clock=told, **options), begin(llm, tokens_per_slot=1)
    other.decide(1)
    until(lambda: request_of(watched.session).context.answer)
    failing.append(True)
    llm.engine.wake()
    until(lambda: watched.session.ended)
    assert isinstance(watched.session.error, InputError) and "clock=" in str(watched.session.error)
    other.session.push(picture(0), 0.0)
    other.decide(2)


def test_a_clock_that_fails_at_once_begins_no_session(llm):
    with pytest.raises(InputError, match=r"clock=.* has failed: ValueError: no time"):
        begin(llm, clock=lambda: (_ for _ in ()).throw(ValueError("no time")))
    assert not llm.engine.active


@pytest.mark.parametrize("asked", ["wait", "next", "drawn", "changed", "lost", "idle"])
def test_a_director_that_raises_ends_its_session_alone(llm, asked, monkeypatch):
    watched, other = begin(llm, tokens_per_slot=1), begin(llm, tokens_per_slot=1)
    watched.decide(1)
    other.decide(1)
    director, request = watched.session._director, request_of(watched.session)

    def broken(*_):
        raise RuntimeError("broken")

    if asked == "idle":
        idle = Job.idle_seconds.fget
        seconds = property(lambda job: broken() if job.director is director else idle(job))
        monkeypatch.setattr(Job, "idle_seconds", seconds)
    else:
        monkeypatch.setattr(director, asked, broken)
    if asked == "lost":
        llm.engine.loop.events.put(lambda: llm.engine.scheduler._lost.append(request))
    with suppress(SessionClosed):  # It may have ended by now.
        watched.session.push(picture(0), 0.0)
    until(lambda: watched.session.ended)
    assert "broken" in str(watched.session.error) and llm.engine.broken is None
    other.session.push(picture(0), 0.0)
    other.decide(2)


def test_a_session_opens_while_all_media_workers_are_busy(llm, monkeypatch):
    monkeypatch.setattr(llm.engine.loop, "config", replace(llm.engine.config, media_workers=1))
    monkeypatch.setattr(Load, "start", lambda self, report, first=None: None)  # It loads for ever.
    handle = llm.submit({"prompt": "?", "images": [picture(0)]})
    until(lambda: any(job.loading for job in llm.engine.loop.jobs))
    begin(llm).decide(1)
    handle.cancel()
