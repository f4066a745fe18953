"""Sessions beside each other and beside requests, and the pace at which they speak."""

import random
import threading

import pytest
import torch
from live_streams import Clock, begin, context_drawn, passed, picture, request_of, told, until

import mossvl
from mossvl.live.events import Limit, Seen
from mossvl.options import GenerationOptions


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


def test_a_session_that_nothing_slows_down_draws_in_every_step(speaking, monkeypatch):
    """Also where the next step is planned before the last token is known."""
    monkeypatch.setattr(type(speaking.engine.runner), "overlaps", property(lambda self: True))
    watched = begin(speaking, tokens_per_second=None, ignore_eos=True)
    until(lambda: len(request_of(watched.session).context.answer) > 5)
    steps, plan = [], speaking.engine.scheduler.plan

    def planned():
        step = plan()
        steps.append(len(step.decode))
        return step

    monkeypatch.setattr(speaking.engine.scheduler, "plan", planned)
    until(lambda: len(steps) > 50)
    assert set(steps) == {1}
    watched.session.push(picture(0), 0.0)
    until(lambda: len(told(watched, Seen)) == 1)
    speaking.close()  # While steps overlap: the last one is read then.


def test_tokens_after_an_input_are_limited_and_renewed(speaking):
    watched = begin(speaking, max_new_tokens=5, ignore_eos=True)
    until(lambda: len(told(watched, Limit)) == 1)
    assert len(watched.rest().answer) == 5
    watched.session.push(picture(0), 0.0)
    until(lambda: len(told(watched, Limit)) == 2)
    assert len(watched.rest().answer) == 10 and told(watched, Limit)[0].kind == "max_new_tokens"


def test_a_penalty_spares_control_tokens_and_the_times_of_frames(speaker, processor):
    """All other tokens of the stream count, however many frames came between."""
    with mossvl.MossVL(speaker, processor, memory=1 << 24) as llm:
        watched = begin(llm, tokens_per_slot=5, repetition_penalty=3.0, ignore_eos=True)
        watched.decide(1)
        for number in range(4):
            watched.pictures.append(picture(number))
            watched.session.push(watched.pictures[-1], number / 4)
            watched.decide(number + 2)
        context = watched.rest()
    stream = context.tokens(0, context.length)
    logits, _, _ = passed(speaker, processor, stream, watched.pictures)
    special = set(processor.tokenizer.added_tokens_decoder)
    begins, ends = processor.tokenizer.convert_tokens_to_ids(["<|time_start|>", "<|time_end|>"])
    given = {row for prompt in context.prompts for row in range(prompt.begin.row, prompt.end.row)}
    counted, timed, differs = [], False, 0
    for row, token in enumerate(stream):
        if row not in given:
            scores = logits[row - 1].clone()
            seen = sorted(set(counted))
            scores[seen] = torch.where(scores[seen] > 0, scores[seen] / 3, scores[seen] * 3)
            assert int(scores.argmax()) == token
            differs += int(logits[row - 1].argmax()) != token
        timed = row in given and (token == begins or (timed and token != ends))
        if not timed and token not in special:
            counted.append(token)
    assert differs
