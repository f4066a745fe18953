"""Frames that leave the window are hidden from then on; a full context is exchanged for a shorter one, and told."""

from dataclasses import replace

import pytest
import torch
from live_streams import Watched, check_pass, hide, passed, picture, request_of, talkative, told, until

import mossvl
from mossvl.errors import ContextLengthError
from mossvl.live.events import Closed, Dropped, Evicted, RolledOver, Seen
from mossvl.processing.stream import frame_text, opening_text


@pytest.fixture
def llm(talker, processor):
    with mossvl.MossVL(talker, processor, memory=1 << 24, page_size=4) as llm:
        yield llm


def watch(llm, frames, seconds_apart=1.0, **options):
    """A session that has seen so many frames, with 3 tokens after each."""
    session = llm.live("Go.", system_prompt="Watch.", tokens_per_second=None, tokens_per_slot=3, **options)
    watched = Watched(session, opening_text("Watch.", "Go."))
    watched.decide(1)
    for number in range(frames):
        show(watched, number * seconds_apart)
    return watched


def show(watched, time):
    seen = watched.decisions
    watched.pictures.append(picture(len(watched.pictures)))
    watched.session.push(watched.pictures[-1], time)
    watched.given.append(frame_text(time))
    watched.decide(seen + 1)


@pytest.mark.parametrize("options", [{"window_seconds": 2.0}, {"window_seconds": None, "window_frames": 3}], ids=str)
def test_frames_that_have_left_are_hidden_from_later_tokens(options, llm, talker, processor, monkeypatch):
    watched = watch(llm, 7, **options)
    context = watched.rest()
    ends = [0, *[end for prompt in context.prompts for end in prompt.frame_ends]]
    unseen = torch.zeros(context.length, dtype=torch.long)
    for number, prompt in enumerate(context.prompts[1:]):
        left = max(0, number - 2)
        unseen[prompt.begin.row - 1 :] = ends[left]
    hide(monkeypatch, unseen)
    check_pass(context, talker, processor, watched.pictures)
    assert [one.times for one in told(watched, Evicted)] == [(0.0,), (1.0,), (2.0,), (3.0,)]
    request = request_of(watched.session)
    assert request.freed and sorted(request.pixels) == [3, 4, 5, 6][-len(request.pixels) :]
    assert [one.time for one in watched.session._director.kept.pictures] == [4.0, 5.0, 6.0]
    watched.session.close()
    assert llm.engine.cache.num_free == llm.engine.cache.num_pages


def test_a_pass_that_hides_nothing_differs(llm, talker, processor):
    context = watch(llm, 20, window_frames=1).rest()
    logits, _, _ = passed(talker, processor, context.tokens(0, context.length), [picture(one) for one in range(20)])
    wrong = [row for row in range(context.length) if int(logits[row - 1].argmax()) != context.tokens(row, row + 1)[0]]
    given = {row for prompt in context.prompts for row in range(prompt.begin.row, prompt.end.row)}
    assert set(wrong) - given


def test_a_full_context_rolls_over_into_a_shorter_one_that_goes_on_exactly(llm, talker, processor):
    watched = watch(llm, 0, max_context=256, window_frames=4)
    request = request_of(watched.session)
    for number in range(40):
        show(watched, float(number))
        rolled = told(watched, RolledOver)
        context = watched.session.engine.loop.jobs[0].requests[0].context
        if len(rolled) == 2 and len(context.prompts) == 2:
            break
    assert len(rolled) == 2 and request_of(watched.session) is not request and request.ended
    until(lambda: request_of(watched.session).rests)
    context, told_frames = request_of(watched.session).context, rolled[-1].kept_frames
    assert 1 <= told_frames <= 4 and rolled[-1].reason == "length"
    pictures = watched.pictures[-told_frames - 1 :]
    assert context.prompts[0].end.frame == told_frames and rolled[-1].kept_tokens < len(context.prompts[0].tokens)
    text = processor.tokenizer.decode(context.prompts[0].tokens)
    assert text.startswith(opening_text("Watch.", "Go."))
    assert text.count("<|image_pad|>") == told_frames and context.prompts[0].end.row <= 128
    left = len(context.prompts[0].frame_rows) + 1 - 4
    if left <= 0:
        check_pass(context, talker, processor, pictures)
    assert [one.time for one in told(watched, Seen)] == [float(one) for one in range(len(watched.pictures))]


def test_a_new_context_is_a_half_of_the_largest_whatever_its_system_prompt_and_question(llm, processor):
    words = {size: " ".join(["yes"] * size) for size in (60, 20)}
    session = llm.live(
        words[20], system_prompt=words[60], tokens_per_second=None, tokens_per_slot=3, max_context=256, window_frames=9
    )
    watched, begins = Watched(session, ""), []
    watched.decide(1)
    for number in range(60):
        if number % 20 == 19:
            session.say(words[20])
        show(watched, float(number))
        if len(told(watched, RolledOver)) > len(begins):
            begins.append(request_of(session).context.prompts[0].end.row)
    until(lambda: len(told(watched, Seen)) == 60)
    assert len(begins) >= 2 and max(begins) <= 128 and len(told(watched, RolledOver)) <= 15
    with pytest.raises(ContextLengthError, match="beside its system prompt"):
        session.say(" ".join(["yes"] * 60))


def test_a_session_without_frames_rolls_over_while_it_speaks(loaded):
    model = talkative(*loaded, factor=-1)
    with mossvl.MossVL(model, loaded[1], memory=1 << 24) as llm:
        session = llm.live("Go.", system_prompt="", tokens_per_second=None, max_context=256, ignore_eos=True)
        watched = Watched(session, "")
        until(lambda: len(told(watched, RolledOver)) == 3)
        assert request_of(session).context.length <= 256
        session.close()
        *_, closed = session
        assert isinstance(closed, Closed) and closed.reason == "closed"


@pytest.mark.parametrize("parked", [True, False])
def test_a_session_whose_memory_was_taken_rolls_over_when_it_goes_on(parked, llm, talker, processor):
    watched = watch(llm, 5, window_frames=3)
    watched.rest()
    engine, old = llm.engine, request_of(watched.session)
    if not parked:
        watched.session.say("Speak.")
    engine.loop.events.put(lambda: engine.scheduler._preempt(old) if old.slot >= 0 else None)
    if parked:
        until(lambda: old.ended)
        assert not told(watched, RolledOver)
        show(watched, 5.0)
    else:
        watched.decide(7)
    (rolled,) = told(watched, RolledOver)
    assert rolled.reason == "preempted" and rolled.kept_frames == 3
    until(lambda: request_of(watched.session).rests)
    assert [one.time for one in told(watched, Seen)][:5] == [0.0, 1.0, 2.0, 3.0, 4.0]
    watched.session.close()
    assert engine.cache.num_free == engine.cache.num_pages


def test_frames_that_a_new_context_has_not_and_no_token_has_seen_are_dropped(llm):
    watched = watch(llm, 3)
    watched.rest()
    director = watched.session._director
    director.bounds = replace(director.bounds, vision=2 * 12)
    director._fresh = director.kept.pictures
    director._roll_over("preempted")
    assert [one.times for one in told(watched, Dropped)] == [(0.0,)]
    assert [one.time for one in director._fresh] == [1.0, 2.0]


def test_a_session_that_finds_no_room_beyond_its_reservation_rolls_over_to_no_more_than_that(talker, processor):
    with mossvl.MossVL(talker, processor, memory=1 << 24, page_size=4) as llm:
        watched = watch(llm, 8, window_frames=8)
        watched.rest()
        engine, old = llm.engine, request_of(watched.session)
        vision = old.context.num_vision
        director = watched.session._director
        reserved = {"reserved_tokens": old.context.length, "reserved_vision": vision // 2}
        director.bounds = replace(director.bounds, **reserved)
        old.reserved, cache = 1, engine.cache

        def take():
            engine.scheduler._preempt(old)
            taken.extend(cache.allocate(cache.available - 1))

        def give():
            cache.release(taken, ())

        taken = []
        engine.loop.events.put(take)
        until(lambda: taken)
        watched.session.push(picture(8), 8.0)
        until(lambda: told(watched, RolledOver))
        (rolled,) = told(watched, RolledOver)
        engine.loop.events.put(give)
        watched.decide(10)
        assert rolled.reason == "preempted" and 0 < rolled.kept_frames <= 4
        assert request_of(watched.session).context.num_vision <= vision


def test_a_session_that_is_preempted_before_frames_have_left_is_computed_anew_exactly(llm, talker, processor):
    watched = watch(llm, 3)
    watched.rest()
    engine, request = llm.engine, request_of(watched.session)
    engine.loop.events.put(lambda: engine.scheduler._preempt(request))
    until(lambda: request.slot < 0)
    show(watched, 3.0)
    assert request_of(watched.session) is request and request.preemptions == 1
    check_pass(watched.rest(), talker, processor, watched.pictures)
    assert not told(watched, RolledOver)


def test_frames_that_leave_while_a_session_is_computed_anew_keep_their_pixels_until_then(talker, processor):
    with mossvl.MossVL(talker, processor, memory=1 << 24, vision_cache=0) as llm:
        watched = watch(llm, 3, window_frames=3)
        watched.rest()
        engine, request = llm.engine, request_of(watched.session)
        engine.loop.events.put(lambda: engine.scheduler._preempt(request))
        until(lambda: request.slot < 0)
        show(watched, 3.0)
        show(watched, 4.0)
        assert request_of(watched.session) is request and watched.session.active
        assert sorted(request.pixels) == [2, 3, 4] and len(told(watched, Seen)) == 5
