"""A session's tokens, positions and what its rows see are those of one forward pass over the whole stream."""

import pytest
from live_streams import Watched, blocked, check_stream, picture, request_of, talkative, told, until

import mossvl
from mossvl.live.events import Closed, Interrupted, Seen, Silence, SpeechStarted, Text, Turn
from mossvl.processing.stream import REALTIME, frame_text, opening_text, prompt_text

SILENCE = "<|silence|>"


def begin(llm, prompt="", **options):
    options = {"tokens_per_second": None, "window_seconds": None, **options}
    session = llm.live(prompt, system_prompt="Watch.", **options)
    return Watched(session, opening_text("Watch.", prompt))


def push(watched, time, prompt=None, always=True):
    """Push a picture, with a prompt or without, and write down what the stream should have of it."""
    image = picture(len(watched.pictures))
    watched.pictures.append(image)
    if prompt is None:
        watched.session.push(image, time)
    else:
        watched.session.say(prompt, image, time)
    asked = "" if prompt is None else prompt_text(prompt) + SILENCE
    watched.given.append(asked + frame_text(time))


def texts(processor, slots):
    return [processor.tokenizer.decode(ids) for ids in slots]


def expected_raw(processor, pieces):
    """What the published loop tells: its own strings, and tokens' texts, where half a character waits for the next."""
    out, held = "", []
    for piece in pieces:
        if isinstance(piece, str):
            out += piece
            continue
        for token in piece:
            held.append(token)
            text = processor.tokenizer.decode(held)
            if not text.endswith("\ufffd"):
                out, held = out + text, []
    return out + (processor.tokenizer.decode(held) if held else "")


@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapping"])
@pytest.mark.parametrize("slot", [1, 2, 7])
def test_frames_and_prompts_between_slots(slot, overlaps, llm, talker, processor, monkeypatch):
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: overlaps))
    watched = begin(llm, "Say when.", tokens_per_slot=slot)
    watched.decide(1)
    for number in range(6):
        push(watched, number / 2, "And now, é?" if number == 3 else None)
        watched.decide(len(watched.given))
        if number == 4:
            watched.given.append(prompt_text("Alone?") + SILENCE)
            watched.session.say("Alone?")
            watched.decide(len(watched.given))
    slots = check_stream(watched, talker, processor)
    assert all(1 <= len(tokens) <= slot for tokens in slots)
    watched.session.close()
    pieces = []
    for text, tokens in zip(watched.given, slots, strict=True):
        asked = SILENCE in text and text is not watched.given[0]
        pieces += [*(["<|round_start|>", SILENCE] if asked else []), tokens]
    assert watched.raw == expected_raw(processor, pieces)
    assert [one.text for one in watched.events if isinstance(one, Turn)] == ["And now, é?", "Alone?"]
    seen = [one for one in watched.events if isinstance(one, Seen)]
    assert [one.time for one in seen] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5] and [one.number for one in seen] == [*range(6)]
    assert [one.tokens for one in seen] == [7, 5, 7, 17, 7, 5]


@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapping"])
def test_a_session_falls_silent_and_speaks_and_is_asked_while_it_speaks(overlaps, llm, talker, processor, monkeypatch):
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: overlaps))
    watched = begin(llm, max_new_tokens=60)
    for number in range(8):
        await_words(request_of(watched.session), 3)
        push(watched, float(number), "What?" if number % 3 == 2 else None)
        until(lambda: not watched.session._inbox.waiting)
        until(lambda number=number: len(seen(watched)) == number + 1)
    slots = check_stream(watched, talker, processor)
    silence = processor.tokenizer.convert_tokens_to_ids(SILENCE)
    assert all(silence not in tokens[:-1] for tokens in slots)
    assert {tokens[-1] == silence for tokens in slots} == {True, False}


def await_words(request, count):
    """Wait until so many more tokens are drawn, or it is silent."""
    known = len(request.context.answer)
    until(lambda: request.rests or len(request.context.answer) >= known + count)


def seen(watched):
    return told(watched, Seen)


def test_the_trained_model_too():
    model, processor = mossvl.load(device="cpu", dtype="float32")
    with mossvl.MossVL(model, processor, memory=1 << 26) as llm:
        watched = begin(llm, "Say when a star appears.", tokens_per_slot=4)
        watched.decide(1)
        for number in range(4):
            push(watched, number / 2, "What is it?" if number == 2 else None)
            watched.decide(number + 2)
        check_stream(watched, model, processor)


def test_frames_that_wait_are_seen_one_in_a_slot(llm, talker, processor):
    watched = begin(llm, tokens_per_slot=3)
    for number in range(5):
        push(watched, float(number))
    watched.decide(6)
    check_stream(watched, talker, processor)


def test_all_that_waits_is_given_at_once_as_published(llm, talker, processor):
    watched = begin(llm, tokens_per_slot=4, frames="drain", inserted_silence="published")
    watched.decide(1)
    free = blocked(llm)
    session = watched.session
    session.say("First?")
    session.push(picture(1), 1.0)
    session.push(picture(2), 2.0)
    session.say("Second?")
    session.say("Third?", picture(3), 2.0)
    free()
    watched.decide(2)
    watched.pictures = [picture(1), picture(2), picture(3)]
    turns = "".join(prompt_text(text) + SILENCE for text in ("First?", "Second?", "Third?"))
    watched.given.append(turns + frame_text(1.0) + frame_text(2.0) + frame_text(2.0))
    session.say("Without?")
    watched.decide(3)
    watched.given.append(prompt_text("Without?"))
    slots = check_stream(watched, talker, processor)
    session.close()
    order = [slots[0], *["<|round_start|>", SILENCE] * 3, slots[1], "<|round_start|>", slots[2]]
    assert watched.raw == expected_raw(processor, order)


def test_a_prompt_alone_goes_before_the_frames_that_wait(llm, talker, processor):
    watched = begin(llm, tokens_per_slot=2)
    watched.decide(1)
    free = blocked(llm)
    for number in range(3):
        push(watched, float(number))
    watched.session.say("Now?")
    watched.given[1] = prompt_text("Now?") + SILENCE + watched.given[1]
    free()
    watched.decide(4)
    check_stream(watched, talker, processor)


@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapping"])
def test_an_interruption_ends_the_reply_with_silence(overlaps, loaded, processor, monkeypatch):
    model = talkative(*loaded, factor=-1)
    llm = mossvl.MossVL(model, processor, memory=1 << 24)
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: overlaps))
    watched = begin(llm, "Speak.", ignore_eos=True)
    until(lambda: len(request_of(watched.session).context.answer) > 5)
    watched.session.interrupt()
    watched.decide(1)
    watched.given.append(SILENCE)
    assert watched.raw.endswith(SILENCE) and isinstance(watched.events[-1], Interrupted)
    watched.session.interrupt()  # Of nothing: it is silent.
    free = blocked(llm)
    push(watched, 1.0)
    free()
    until(lambda: len(seen(watched)) == 1)
    free = blocked(llm)
    watched.session.interrupt()
    push(watched, 2.0)
    watched.given[-1] = SILENCE + watched.given[-1]
    free()
    until(lambda: len(seen(watched)) == 2)
    watched.session.interrupt()
    until(lambda: len(told(watched, Interrupted)) == 3)
    watched.given.append(SILENCE)
    slots = check_stream(watched, model, processor)
    assert slots[0] and not slots[1] and all(slots[2:-1]) and not slots[-1]
    context = watched.rest()
    assert context.tokens(context.length - 1, context.length) == processor.tokenizer.convert_tokens_to_ids([SILENCE])
    llm.close()


def test_the_published_system_prompt_is_the_default_and_an_empty_one_stays_empty(llm, processor):
    for given, used in ((None, REALTIME), ("", ""), ("Mind <|silence|> and <|im_end|>.", "Mind <|silence|> and .")):
        session = llm.live("Hi<|im_end|>.", system_prompt=given)
        watched = Watched(session, opening_text(used, "Hi."))
        context = watched.rest()
        text = processor.tokenizer.decode(context.prompts[0].tokens)
        assert text == watched.given[0]
        session.close()


def test_the_last_event_tells_how_to_go_on(llm, processor):
    watched = begin(llm, "Say when.", tokens_per_slot=3)
    watched.decide(1)
    push(watched, 0.0)
    push(watched, 1.0, "What is it?")
    watched.decide(3)
    slots = texts(processor, [piece.drawn for piece in watched.session._director.kept.pieces])
    watched.session.close()
    *_, closed = watched.session
    assert isinstance(closed, Closed) and closed.reason == "closed" and closed.error is None
    assert [one["role"] for one in closed.prefill] == ["system", "user", "assistant", "user", "assistant"]
    assert closed.prefill[0]["content"] == "Watch." and closed.prefill[1]["content"] == "Say when."
    assert closed.prefill[3]["content"] == "What is it?"
    again = llm.live(prefill=closed.prefill, tokens_per_slot=3)
    context = Watched(again, "").rest()
    text = processor.tokenizer.decode(context.prompts[0].tokens)
    assert text.startswith(opening_text("Watch.", "Say when."))
    assert text.endswith("<|im_start|>assistant\n" + closed.prefill[4]["content"])
    assert slots


def test_speech_is_told_from_its_start_to_its_silence(llm):
    watched = begin(llm, max_new_tokens=40)
    for number in range(6):
        watched.session.push(picture(number), float(number))
        until(lambda number=number: len(seen(watched)) == number + 1)
    watched.rest()
    watched.session.close()
    watched.events += watched.session.take()
    speaking = False
    for event in watched.events:
        if isinstance(event, SpeechStarted):
            assert not speaking
            speaking = True
        elif isinstance(event, Text):
            assert speaking
        elif isinstance(event, Silence):
            assert event.ends_reply == speaking
            speaking = False
