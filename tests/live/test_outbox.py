"""What waits for readers of a session, and what is kept of what they have read, stays small."""

import asyncio
import threading

import pytest
from live_streams import picture

from mossvl.live.events import Closed, Dropped, Evicted, Limit, RolledOver, Seen, Text, Turn
from mossvl.live.outbox import Outbox
from mossvl.live.segments import StreamTokens


@pytest.fixture
def tokens(processor):
    return StreamTokens(processor)


def test_text_that_was_read_is_not_kept(tokens):
    outbox = Outbox(tokens)
    read = ""
    for _ in range(100):
        for token in tokens.ids("yes it is "):
            outbox.text(None, token)
        read += "".join(one.text for one in outbox.take() if isinstance(one, Text))
    assert read == "yes it is " * 100
    assert max(len(one) for one in vars(outbox._stream).values() if isinstance(one, str | list)) < 20


def test_what_nobody_reads_is_few_events_with_every_word_and_the_newest_frames_that_have_gone(tokens, monkeypatch):
    monkeypatch.setattr("mossvl.live.outbox.MOST_UNREAD", 16)
    outbox = Outbox(tokens)
    ends = next(iter(tokens.special))
    for number in range(200):
        outbox.tell(Turn(text="What?", raw="<|round_start|>"))
        outbox.tell(Seen(number=number, tokens=1, lag=0.0))
        for token in tokens.ids("yes "):
            outbox.text(float(number), token)
        outbox.text(float(number), ends)
        outbox.tell(Evicted(times=(float(number),)))
        outbox.tell(Dropped(times=(number + 0.5,), reason="queue"))
        outbox.tell(Dropped(times=(number + 0.7,), reason="latest"))
        outbox.tell(RolledOver(kept_tokens=1, kept_frames=0, reason="length"))
        outbox.tell(Limit(kind="max_new_tokens"))
        assert len(outbox._entries) <= 16
    outbox.tell(Closed(reason="closed", prefill=[]))
    events = outbox.take()
    assert "".join(one.text for one in events if isinstance(one, Text)) == "yes " * 200
    assert isinstance(events[-1], Closed) and any(isinstance(one, Turn) for one in events)
    for kind, reason, part in ((Evicted, None, 0.0), (Dropped, "queue", 0.5), (Dropped, "latest", 0.7)):
        told = [one.times for one in events if isinstance(one, kind) and getattr(one, "reason", None) == reason]
        times = [time for one in told for time in one]
        assert times == [number + part for number in range(200)][-len(times) :] and 16 <= len(times) <= 32


@pytest.mark.parametrize("failure", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_listener_that_fails_ends_neither_its_session_nor_others(llm, failure):
    def fails():
        if threading.current_thread() is not threading.main_thread():
            raise failure

    begun = [llm.live("Go.", tokens_per_second=None, max_new_tokens=3) for _ in range(2)]
    begun[0].when_changed(fails)
    for session in begun:
        session.push(picture(0), 0.0, final=True)
    assert [list(session)[-1].reason for session in begun] == ["final", "final"]
    assert llm.engine.loop.broken is None


def test_what_a_listener_interrupts_in_the_main_thread_is_interrupted(tokens):
    def pressed():
        raise KeyboardInterrupt

    outbox = Outbox(tokens)
    outbox._listeners.append(pressed)
    with pytest.raises(KeyboardInterrupt):
        outbox.announce()
    assert outbox.wait_end(0.0) is False and not outbox._telling.now  # It waits again.


def test_nothing_is_told_after_the_end(tokens):
    outbox = Outbox(tokens)
    outbox.tell(Closed(reason="closed", prefill=[]))
    outbox.tell(Dropped(times=(0.0,), reason="queue"))
    outbox.tell(Closed(reason="idle", prefill=[]))
    assert [(type(one), one.reason) for one in outbox.take()] == [(Closed, "closed")]
    assert outbox.ended and outbox.take() == []
