"""A recorded session is repeated token for token; a file that is none is refused."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from live_streams import picture, until
from PIL import Image

from mossvl.errors import InputError, ResourceError
from mossvl.live import record
from mossvl.live.events import Seen
from mossvl.live.record import Recorder
from mossvl.live.recording import Recording
from mossvl.options import SamplingParams


def recorded(llm, path, live, **options):
    """Record a session of which `live` does something; return its raw strings and its last event."""
    options = {"tokens_per_second": None, "max_new_tokens": 40, **options}
    with Recorder(path) as recorder, llm.live("Watch.", recorder=recorder, **options) as session:
        events = []

        def read():
            for event in session:
                recorder.told(event, session.usage.text_output)
                events.append(event)

        reading = threading.Thread(target=read)
        reading.start()
        live(session, events)
        session.close()
        reading.join()
    return "".join(event.raw for event in events), events[-1]


def replayed(llm, path):
    with llm.replay(Recording(path)) as session:
        feeding = threading.Thread(target=session.feed)
        feeding.start()
        events = list(session)
        feeding.join()
    return "".join(event.raw for event in events), events[-1]


def ask_and_interrupt(session, events):
    """Frames of all kinds while the model speaks, questions with and without them, and interruptions."""
    for number in range(12):
        known = len(events)
        image = picture(number)
        if number % 4 == 1:
            session.say("What?", image, float(number))
        elif number % 4 == 2:
            session.say("Alone?")
            session.push(Image.fromarray(image), float(number))
        elif number % 4 == 3:
            session.push(image, float(number))
            session.interrupt()
        else:
            session.push(image, float(number))
        until(lambda known=known: len(events) > known)


@pytest.mark.parametrize("frames", ["one_per_slot", "drain"])
def test_a_session_is_repeated_token_for_token(llm, tmp_path, frames):
    raw, closed = recorded(llm, tmp_path / "events.jsonl", ask_and_interrupt, frames=frames)
    assert raw.count("<|round_start|>") == 6 and "<|silence|>" in raw
    again, ended = replayed(llm, tmp_path / "events.jsonl")
    assert again == raw and ended.reason == closed.reason == "closed" and ended.prefill == closed.prefill


def test_a_session_that_was_closed_while_it_spoke_ends_at_the_same_token(llm, tmp_path):
    def live(session, events):
        session.push(picture(0), 0.0)
        until(lambda: session.usage.text_output > 5)

    raw, _ = recorded(llm, tmp_path / "events.jsonl", live, max_new_tokens=2000, tokens_per_second=200.0)
    assert replayed(llm, tmp_path / "events.jsonl")[0] == raw


def test_a_final_input_ends_the_repetition_too(llm, tmp_path):
    def live(session, events):
        session.push(picture(0), 0.0, final=True)
        until(lambda: not session.active)

    raw, closed = recorded(llm, tmp_path / "events.jsonl", live)
    again, ended = replayed(llm, tmp_path / "events.jsonl")
    assert again == raw and ended.reason == closed.reason == "final"


def test_an_image_is_recorded_as_it_was_given(llm, tmp_path):
    image = picture(3)
    Image.fromarray(image).save(tmp_path / "a.jpg")
    coded = (tmp_path / "a.jpg").read_bytes()

    def live(session, events):
        session.push(coded, 0.0)
        session.push(image, 1.0)
        image[:] = 0  # The caller's own array.
        until(lambda: not session.pending and session.usage.vision > 20)

    recorded(llm, tmp_path / "events.jsonl", live)
    (first,), (second,) = (given.frames for given in Recording(tmp_path / "events.jsonl").inputs() if given.frames)
    assert first == (0.0, coded)
    (tmp_path / "b.png").write_bytes(second[1])
    assert (np.asarray(Image.open(tmp_path / "b.png")) == picture(3)).all()


@pytest.mark.parametrize(
    "content", ["", "text", "[]\n", '{"event": "text"}\n', '{"event": "session", "form": 99}\n', b"\xff\xfe\x00"]
)
def test_what_is_no_recording_is_refused(tmp_path, content):
    file = tmp_path / "events.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"events\.jsonl"):
        Recording(file)
    with pytest.raises(InputError, match="cannot be read"):
        Recording(tmp_path / "none.jsonl")


def test_an_unfinished_last_line_is_left_out_and_another_that_is_damaged_is_named(llm, tmp_path):
    file = tmp_path / "events.jsonl"
    recorded(llm, file, ask_and_interrupt)
    lines = file.read_text().splitlines(keepends=True)
    first, second, *_ = (number for number, line in enumerate(lines) if json.loads(line)["event"] == "input")
    file.write_text("".join([*lines[:second], lines[second][:-9]]))
    recording = Recording(file)
    assert not recording.complete and len(list(recording.inputs())) == 1 + 1
    assert replayed(llm, file)[0].startswith(recording.raw)
    file.write_text("".join([*lines[:first], lines[first][:-9] + "\n", *lines[first + 1 :]]))
    with pytest.raises(InputError, match=rf"line {first + 1}: no JSON; the recording is damaged here"):
        Recording(file)
    file.write_text(lines[0][:-9])
    with pytest.raises(InputError, match="line 1: no JSON"):
        Recording(file)


def test_a_session_that_was_killed_is_repeated_as_far_as_it_was_recorded(llm, tmp_path):
    file = tmp_path / "events.jsonl"
    recorded(llm, file, ask_and_interrupt)
    lines = file.read_text().splitlines(keepends=True)
    inputs = [number for number, line in enumerate(lines) if json.loads(line)["event"] == "input"]
    for cut in (1, inputs[0] + 1, inputs[8] + 3, len(lines) - 1):
        file.write_text("".join(lines[:cut]))
        recording = Recording(file)
        assert not recording.complete
        raw, ended = replayed(llm, file)
        assert raw.startswith(recording.raw) and ended.reason == "closed"
        assert len(list(recording.inputs())) == sum(number < cut for number in inputs) + 1
    assert recording.raw


def test_a_repetition_ends_although_the_model_never_rests(llm, speaking, tmp_path):
    file = tmp_path / "events.jsonl"
    raw, _ = recorded(speaking, file, lambda session, _: session.push(picture(0), 0.0))
    lines = file.read_text().splitlines(keepends=True)
    options = json.loads(lines[0])["options"] | {"max_new_tokens": None}
    lines[0] = json.dumps(json.loads(lines[0]) | {"options": options}) + "\n"
    file.write_text("".join(lines[:-1]))
    again, ended = replayed(speaking, file)
    assert again.startswith(raw) and ended.reason == "closed"


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (1, {"options": None}, "options=None must be an object"),
        (1, {"options": {"queue": "many"}}, "queue"),
        (1, {"options": {"quene": 1}}, "'queue'"),
        (1, {"messages": "none"}, "messages='none' must be a list"),
        (1, {"messages": [{"role": "user"}]}, "is no message"),
        (2, {"raw": 5}, "raw=5 must be a text"),
        (3, {"after": "0"}, "after='0' must be a whole number"),
        (3, {"after": True}, "after=True must be a whole number"),
        (3, {"after": -1}, "after=-1"),
        (3, {"prompts": [5]}, "prompts=5 must be a text"),
        (3, {"prompts": None}, "prompts=None must be a list"),
        (3, {"interrupts": "no"}, "interrupts='no' must be true or false"),
        (3, {"frames": [1]}, "frames: 1 must be an object"),
        (3, {"frames": [{"time": "0", "image": ""}]}, "time='0' must be a number"),
        (3, {"frames": [{"time": 0, "image": "?"}]}, "image='\\?' must be base64"),
        (4, {"drawn": None}, "drawn=None must be a whole number"),
    ],
)
def test_the_line_of_a_recording_that_cannot_be_used_is_named(tmp_path, number, change, said):
    given = {"interrupts": False, "prompts": [], "frames": [], "final": False}
    lines = [
        {"event": "session", "form": 1, "messages": [{"role": "user", "content": ""}], "options": {}},
        {"event": "text", "raw": "a"},
        {"event": "input", "after": 0, **given},
        {"event": "closed", "raw": "", "drawn": 1},
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Recording(file).raw == "a"
    lines[number - 1] |= change
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=rf"events\.jsonl: line {number}: .*{said}"):
        Recording(file)


@pytest.mark.parametrize("line", [b"[]", b'{"event": ', b"\xff", b"1" * 5000, b"[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    file = tmp_path / "events.jsonl"
    begin = {"event": "session", "form": 1, "messages": [{"role": "user", "content": ""}], "options": {}}
    file.write_bytes(json.dumps(begin).encode() + b"\n" + line + b"\n")
    with pytest.raises(InputError, match=r"events\.jsonl: line 2: no (JSON|object)"):
        Recording(file)


@pytest.mark.parametrize("change", [{"image": "AAAA"}, {"time": -1}])
def test_a_frame_that_cannot_be_used_ends_the_repetition_with_its_line(llm, tmp_path, change):
    file = tmp_path / "events.jsonl"

    def live(session, events):
        session.push(picture(0), 0.0, final=True)
        until(lambda: not session.active)

    recorded(llm, file, live)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    number, given = next((number, line) for number, line in enumerate(lines, 1) if line.get("frames"))
    given["frames"][0] |= change
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with llm.replay(Recording(file)) as session:
        with pytest.raises(InputError, match=rf"events\.jsonl: line {number}: "):
            session.feed()
        assert list(session)[-1].reason == "closed"


def test_a_repetition_asks_for_nothing_while_an_input_is_prepared(llm, tmp_path, monkeypatch):
    def live(session, events):
        session.push(picture(0), 0.0, final=True)
        until(lambda: not session.active)

    raw, _ = recorded(llm, tmp_path / "events.jsonl", live)
    asked = []
    with llm.replay(Recording(tmp_path / "events.jsonl")) as session:
        director = session._director
        decide = director.next
        monkeypatch.setattr(director, "next", lambda context: (asked.append(0), decide(context))[1])
        until(lambda: session._inbox.preparing)
        before = len(asked)
        for _ in range(3):
            llm.generate("yes", SamplingParams(max_new_tokens=4))
        assert len(asked) <= before + 1
        session.feed()
        assert "".join(event.raw for event in session) == raw


# --- a recording that cannot go on -----------------------------------------------------------------------------------


def watched_beyond(llm, recorder, frames=4):
    """Push frames to a session that is recorded → how many it has seen."""
    with llm.live("Watch.", recorder=recorder, tokens_per_second=None, max_new_tokens=1) as session:
        for number in range(frames):
            session.push(picture(number), float(number))
        session.final()
        return sum(isinstance(event, Seen) for event in session)


def ended(caplog):
    return [one.getMessage() for one in caplog.records if "the recording" in one.getMessage()]


def test_a_full_disk_ends_the_recording_once_and_not_the_session(llm, caplog):
    with Recorder(Path("/dev/full")) as recorder:
        assert watched_beyond(llm, recorder) == 4
    (told,) = ended(caplog)
    assert told.startswith("the recording /dev/full ends here, the session does not: OSError: [Errno 28]")
    assert isinstance(recorder.error, OSError)


def test_a_disk_that_is_too_slow_ends_the_recording_and_keeps_no_pixels(llm, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MOST_WAITING", 40_000)
    recorder, free = Recorder(tmp_path / "events.jsonl"), threading.Event()
    write = recorder._file.write
    monkeypatch.setattr(recorder._file, "write", lambda text: (free.wait(60), write(text)))
    assert watched_beyond(llm, recorder) == 4
    assert len(ended(caplog)) == 1 and isinstance(recorder.error, ResourceError)
    assert recorder._waiting <= 80_000 and not recorder._shown
    free.set()
    recorder.close()
    assert recorder._waiting == 0 and not Recording(tmp_path / "events.jsonl").complete


@pytest.mark.parametrize("place", ["encoded", "open_image"])
def test_what_cannot_be_recorded_ends_the_recording_where_it_is(place, llm, caplog, tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(record, place, fails)
    with Recorder(tmp_path / "events.jsonl") as recorder:
        assert watched_beyond(llm, recorder) == 4
    assert len(ended(caplog)) == 1 and isinstance(recorder.error, MemoryError)
    assert not Recording(tmp_path / "events.jsonl").complete


def test_a_recorder_that_is_closed_before_its_session_keeps_nothing(llm, tmp_path):
    recorder = Recorder(tmp_path / "events.jsonl")
    recorder.close()
    assert watched_beyond(llm, recorder) == 4
    assert recorder.error is None and recorder._waiting == 0 and recorder._lines.empty()
