"""The published realtime methods: their strings, in their order, and their errors."""

import queue
import threading

import pytest
from live_streams import blocked, picture, request_of, talkative, until

from mossvl.errors import InputError, OptionError
from mossvl.live.director import LiveDirector
from mossvl.live.events import Closed, Turn
from mossvl.options.engine import EngineConfig

SILENCE, START = "<|silence|>", "<|round_start|>"


@pytest.fixture
def model(loaded):
    model = talkative(*loaded)
    model.engine(EngineConfig(memory=1 << 28))
    yield model
    model.close_engine()


@pytest.fixture
def processor(loaded):
    return loaded[1]


def published(context, processor):
    """The strings that the published loop puts on its queue for a context: after each step, its token's text."""
    tokenizer, out, held = processor.tokenizer, [], []
    begins = [*(prompt.begin.row for prompt in context.prompts[1:]), context.length]
    for number, (prompt, begin) in enumerate(zip(context.prompts, begins, strict=True)):
        if number:
            text = tokenizer.decode(prompt.tokens)
            for _ in range(text.count("<|im_start|>user")):
                out += [START, SILENCE] if "<|image_pad|>" in text else [START]
        for token in context.tokens(prompt.end.row, begin):
            held.append(token)
            text = tokenizer.decode(held)
            if not text.endswith("\ufffd"):
                out.append(text)
                held = []
    return out


def drained(session):
    """All strings that have come, once the session rests."""
    request = request_of(session._session)
    until(lambda: request.rests and not session.pending_frames and not session._session._inbox.waiting)
    found = []
    while (text := session.poll_output(0.05)) is not None:
        found.append(text)
    return request.context, found


def quiet(session):
    request = request_of(session._session)
    until(lambda: request.rests or len(request.context.answer) > 100)


def test_strings_come_as_the_published_loop_puts_them(model, processor):
    with model.create_realtime_session(processor, initial_prompt="Say.", do_sample=False) as session:
        quiet(session)
        assert session.push_frame(picture(0), 0.0) is False
        session.push_prompt_frame("What, é?", picture(1), 1.0)
        quiet(session)
        session.push_event({"type": "prompt", "prompt": "Alone?"})
        quiet(session)
        events = [(picture(2), 2.0), {"type": "prompt", "prompt": "Both?"}, {"type": "prompt", "prompt": "Yes?"}]
        session.push_event({"type": "batch", "events": [*events, {"type": "frame", "frame": picture(3)}]})
        session.push_event({"type": "frame", "image": picture(0), "timestamp": 9.0})
        quiet(session)
        request = request_of(session._session)
        until(lambda: request.context.num_frames == 5)
        session._session.interrupt()
        context, strings = drained(session)
        cut = context.prompts[-1].tokens == processor.tokenizer.convert_tokens_to_ids([SILENCE])
        assert strings == [*published(context, processor), *[SILENCE] * cut]
        given = [processor.tokenizer.decode(prompt.tokens) for prompt in context.prompts[1:]]
        both = next(text for text in given if "Both?" in text)
        assert both.index("Both?") < both.index("Yes?") < both.index("<|image_pad|>")
        assert f"Yes?<|im_end|>\n<|im_start|>assistant\n{SILENCE}<|vision_start|>" in both


def test_frames_and_prompts_are_checked(model, processor):
    session = model.create_realtime_session(processor, frame_queue_size=2)
    assert not session.active and session.pending_frames == 0 and session.poll_output() is None
    session.push_frame(picture(0), 5.0)
    assert session.active and session.start() is session
    for act in (
        lambda: session.push_frame(picture(0), 4.0),
        lambda: session.push_prompt(""),
        lambda: session.push_frame("no such file"),
        lambda: session.push_event({"type": "sound"}),
        lambda: session.push_event(7),
    ):
        with pytest.raises(ValueError, match=r"\S"):
            act()
    free = blocked(model)
    pushed = [session.push_frame(picture(0), float(time)) for time in (6, 7, 8)]
    assert pushed[-1] is True and session.pending_frames == 2
    with pytest.raises(queue.Full):
        session.push_frame(picture(0), 9.0, drop_oldest=False)
    free()
    session.close()
    for act in (session.start, lambda: session.push_frame(picture(0)), lambda: session.push_prompt("yes")):
        with pytest.raises(RuntimeError):
            act()
    assert not session.active


def test_an_error_is_raised_once_all_strings_were_read(model, processor, monkeypatch):
    session = model.create_realtime_session(processor, initial_prompt="Say.").start()
    quiet(session)

    def fail(context):
        raise InputError("injected")

    monkeypatch.setattr(session._session._director, "next", fail)
    session.push_prompt("yes")
    strings, told = session.stream_outputs(), []
    with pytest.raises(InputError, match="injected"):
        told.extend(strings)
    with pytest.raises(InputError, match="injected"):
        session.poll_output()
    assert not session.active


@pytest.mark.parametrize("poll", [0.0, 0.1])
def test_what_is_told_while_it_is_polled_is_not_lost(poll, model, processor, monkeypatch):
    session = model.create_realtime_session(processor, initial_prompt="Say.").start()
    quiet(session)
    outbox, take, failure = session._session._outbox, session._session.take, InputError("injected")

    def take_before_the_end():
        taken = take()
        if not outbox.ended:
            monkeypatch.setattr(session._session._ending._handle, "error", failure)
            outbox.tell(Turn(text="last", raw=START))
            outbox.tell(Closed(reason="error", prefill=[], error=failure))
        return taken

    session._session.interrupt()
    drained(session)
    monkeypatch.setattr(session._session, "take", take_before_the_end)
    strings, told = session.stream_outputs(poll), []
    with pytest.raises(InputError, match="injected"):
        told.extend(strings)
    assert told == [START]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "did you mean 'temperature'"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"frame_queue_size": 0}, "frame_queue_size=0"),
        ({"max_tokens_per_turn": -1}, "max_tokens_per_turn=-1"),
        ({"stop": ["x"]}, "unknown generation option of a realtime session 'stop'"),
    ],
    ids=str,
)
def test_options_are_checked(options, message, model, processor):
    with pytest.raises(OptionError, match=message):
        model.create_realtime_session(processor, **options)


class Online:
    """`online_generate` in a thread."""

    def __init__(self, model, processor, **options):
        self.queries, self.output = queue.Queue(), queue.Queue()
        arguments = (processor, self.queries, self.output)
        self.thread = threading.Thread(target=model.online_generate, args=arguments, kwargs=options, daemon=True)
        self.thread.start()

    def until(self, text):
        """The strings up to one with this text."""
        found = []
        while text not in (found or [""])[-1]:
            found.append(self.output.get(timeout=30))
        return found


@pytest.mark.parametrize("stop", ["stop_online_generate", "stop_realtime_generate", "stop_generation"])
def test_a_loop_over_dicts_tells_errors_and_goes_on(stop, model, processor):
    online = Online(model, processor, max_tokens_per_turn=86400)
    online.queries.put("not a dict")
    online.queries.put({"initial_prompt": "Say.", "prompt": "What?", "image": picture(0), "timestamp": 1.0})
    assert online.until(SILENCE)[-2:] == [START, SILENCE]
    online.queries.put({"frames": [picture(1), (picture(2), 3.0), {"image": picture(3), "time": 0.5}]})
    (error,) = [text for text in online.until("[ERROR]") if text.startswith("[ERROR]")]
    assert "before that of the newest frame" in error
    online.queries.put({"events": [{"type": "prompt", "prompt": "More?"}], "text": "And?"})
    assert online.until(START)[-1] == START
    assert online.until(START)[-1] == START
    online.queries.put({"reset_session": True, "generate_kwargs": {"unknown": 1}})
    assert "unknown" in online.until("[ERROR]")[-1]
    online.queries.put({"clear_history": True, "event": (picture(0), 0.0)})
    until(lambda: model.engine().active == 1)
    online.queries.put({stop: True})
    online.thread.join(30)
    assert not online.thread.is_alive() and not model.engine().active


def test_an_error_of_a_session_that_watches_two_queues_is_raised(model, processor, monkeypatch):
    prompts, output = queue.Queue(), queue.Queue()

    def fail(director, context):
        raise InputError("injected")

    monkeypatch.setattr(LiveDirector, "next", fail)
    prompts.put("What?")
    with pytest.raises(InputError, match="injected"):
        model.real_time_generate(queue.Queue(), prompts, output, processor)
    assert "[ERROR] injected" in list(output.queue) and not model.engine().active


def test_two_queues_are_watched_until_it_is_stopped(model, processor):
    frames, prompts, output = queue.Queue(), queue.Queue(), queue.Queue()
    frames.put((picture(0), 0.0))
    prompts.put("What?")
    thread = threading.Thread(
        target=model.real_time_generate, args=(frames, prompts, output, processor), kwargs={"max_new_tokens": 5}
    )
    thread.start()
    found = []
    while SILENCE not in found:
        found.append(output.get(timeout=30))
    assert START in found
    model.start_real_time_generate()
    model.stop_real_time_generate()
    thread.join(30)
    assert not thread.is_alive() and not model.engine().active
