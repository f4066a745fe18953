"""`mossvl watch` and `mossvl replay`: what they print, what they take in while they run, and how they end."""

import json
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

from mossvl.cli.live_source import open_source
from mossvl.cli.speech import Speech
from mossvl.cli.watch import paced, question_of
from mossvl.errors import MediaError
from mossvl.live.events import Closed, Decision, Dropped, Interrupted, Limit, RolledOver, Silence, Text, Turn
from mossvl.live.options import LiveOptions
from mossvl.live.sources import Folder, Lost, Playback
from mossvl.media.limits import MediaLimits

CLIP = "examples/clip.mp4"
SHORT = (CLIP + "#t=0,3", "Tell me when a star appears.", "--pace", "0", "--max-new-tokens", "5")


# --- what is printed -------------------------------------------------------------------------------------------------


def test_replies_are_lines_with_the_time_of_the_frame_that_was_seen(capsys):
    speech = Speech(as_events=False)
    for event in (
        Text(text=" Hello"),
        Silence(ends_reply=True),
        Text(time=12.0, text=""),
        Text(time=12.0, text="\nA star"),
        Text(time=13.0, text=" appears.\nIt is blue."),
        Silence(time=13.0, ends_reply=True),
        Silence(time=14.0),
        Text(time=15.0, text="Long"),
        Turn(time=15.0, text="Why?"),
        Silence(time=15.0, inserted=True),
        Text(time=15.0, text="So"),
        Interrupted(time=15.0),
        Text(time=15.0, text="Much"),
        Limit(time=15.0, kind="max_new_tokens"),
        Text(time=16.0, text=" more."),
        Silence(time=16.0, ends_reply=True),
        Text(time=16.0, text="End"),
        Text(time=16.0, text="", raw="<|im_end|>"),
        Closed(time=16.0, reason="final", prefill=[]),
    ):
        speech.tell(event)
    assert capsys.readouterr().out == (
        "[start] Hello\n[12.0 s] A star appears.\n         It is blue.\n[15.0 s] Long\n[15.0 s] So\n"
        "[15.0 s] Much\n[16.0 s] more.\n[16.0 s] End\n"
    )


def test_a_watcher_is_told_on_stderr_what_it_should_know(capsys):
    speech = Speech(as_events=False)
    for _ in range(2):
        speech.tell(Dropped(times=(1.0, 2.0), reason="queue"))
        speech.tell(Limit(kind="max_new_tokens"))
    speech.tell(RolledOver(kept_tokens=5, kept_frames=2, reason="length"))
    speech.source(Lost("camera 0", "no data", 2, 4.0))
    speech.tell(Closed(reason="final", prefill=[]))
    out, err = capsys.readouterr()
    assert out == "" and err.count("is behind") == 1 and err.count("--max-new-tokens") == 1
    assert "4 frames were dropped" in err and "2 frames" in err and "attempt 2 in 4 s" in err


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_a_message_does_not_come_into_the_line_of_a_reply(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    speech = Speech(as_events=False)
    speech.note("before")
    speech.tell(Text(time=1.0, text="A star"))
    speech.note("between")
    speech.note("again")
    speech.tell(Text(time=2.0, text=" appears."))
    speech.tell(Silence(time=2.0, ends_reply=True))
    speech.tell(Text(time=3.0, text="Gone"))
    speech.note("last")
    speech.tell(Closed(time=3.0, reason="closed", prefill=[]))
    monkeypatch.setattr(sys, "stdin", sys.stdout)
    speech.tell(Text(time=4.0, text="So it"))
    speech.typed()  # The terminal has begun a line.
    speech.tell(Text(time=4.0, text=" is."))
    speech.tell(Closed(time=3.0, reason="closed", prefill=[]))
    out = capsys.readouterr().out
    if terminal:
        assert out == "[1.0 s] A star\n        appears.\n[3.0 s] Gone\n[4.0 s] So it        is.\n"
    else:
        assert out == "[1.0 s] A star appears.\n[3.0 s] Gone\n[4.0 s] So it is.\n"


def test_as_json_every_event_is_a_line(capsys):
    speech = Speech(as_events=True)
    speech.tell(Decision(time=1.0, silent=True, goes_on=False))
    speech.source(Lost("camera 0", "no data", 2, 4.0))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"event": "decision", "time": 1.0, "raw": "", "silent": True, "goes_on": False}
    assert second == {"event": "lost", "source": "camera 0", "reason": "no data", "attempt": 2, "again_in": 4.0}


# --- what is watched -------------------------------------------------------------------------------------------------


def test_an_argument_names_its_source(tmp_path):
    limits = MediaLimits()
    with open_source(str(tmp_path), 1, 1, limits) as source:
        assert isinstance(source, Folder)
    with open_source(f"{CLIP}#t=1,3", 1, None, limits) as source:
        assert isinstance(source, Playback) and [time for time, _ in source] == [1, 2]
    wrong = {"none.mp4": "no such file", "camera:/dev/video63": "camera /dev/video63", "": "the source is empty"}
    for argument, said in wrong.items():
        with pytest.raises(MediaError, match=said):
            open_source(argument, 1, 1, limits)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="mossvl ask"):
        open_source(str(tmp_path / "a.png"), 1, 1, limits)


def test_a_faster_pace_lets_the_model_say_as_much_for_each_second_of_the_file():
    assert paced(LiveOptions(), 1, 4).tokens_per_second == 48
    locked = paced(LiveOptions(), 0.5, 0)
    assert (locked.tokens_per_second, locked.tokens_per_slot, locked.when_behind) == (None, 24, "block")


# --- the commands ----------------------------------------------------------------------------------------------------


def test_a_file_is_watched_recorded_and_repeated(command, tmp_path):
    watched = command("watch", *SHORT, "--record", tmp_path / "events.jsonl")
    assert watched.exit_code == 0
    assert all(re.match(r"\[(start|\d\.0 s)\] ", line) for line in watched.stdout.splitlines()) and watched.stdout
    again = command("watch", *SHORT, "--json")
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert [event["time"] for event in events if event["event"] == "seen"] == [0, 1, 2]
    assert events[-1]["event"] == "closed" and events[-1]["reason"] == "final"
    repeated = command("replay", tmp_path / "events.jsonl")
    assert (repeated.exit_code, repeated.stdout) == (0, watched.stdout) and "the same" in repeated.stderr
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if json.loads(line)["event"] == "text")
    lines[place] = json.dumps(json.loads(lines[place]) | {"raw": "something else"})
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    other = command("replay", tmp_path / "events.jsonl")
    assert other.exit_code == 1 and "not as recorded after" in other.stderr


def test_a_question_may_be_longer_than_a_name_of_a_file(command):
    question = "Tell me when a red square appears. " * 8
    assert command("watch", *SHORT[:1], question, *SHORT[2:]).exit_code == 0
    assert question_of(["Say", "a" * 300]) == f"Say {'a' * 300}"


def test_a_question_needs_no_quotes(command):
    quoted, bare = (
        command("watch", *SHORT[:1], *words, *SHORT[2:]) for words in (["What is it?"], ["What", "is", "it?"])
    )
    assert bare.exit_code == 0 and bare.stdout == quoted.stdout


def test_the_last_reply_ends_by_itself_at_any_pace(command):
    """A slot of one token, which would cut every reply."""
    watched = command("watch", CLIP + "#t=0,1", "What is it?", "--pace", "0", "--tokens-per-second", "1", "--json")
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    said = [event for event in events if event["event"] == "text"]
    assert said[-1]["raw"] == "<|im_end|>" and len(said) > 3 and events[-1]["reason"] == "final"


def test_a_recording_that_cannot_go_on_is_told_once_and_the_watcher_goes_on(command, caplog):
    watched = command("watch", *SHORT, "--record", "/dev/full")
    assert watched.exit_code == 1 and watched.stdout == command("watch", *SHORT).stdout
    assert caplog.text.count("the recording /dev/full ends here, the session does not: OSError") == 1


def test_a_recording_of_a_watcher_that_was_killed_is_repeated_and_a_changed_one_refused(command, tmp_path):
    file = tmp_path / "events.jsonl"
    assert command("watch", *SHORT, "--record", file).exit_code == 0
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    repeated = command("replay", file)
    assert repeated.exit_code == 0 and "its end was not recorded" in repeated.stderr
    changed = json.loads(lines[0])
    file.write_text(json.dumps(changed | {"options": {"queue": -1}}) + "\n")
    refused = command("replay", file)
    assert refused.exit_code == 2 and "line 1: queue=-1" in refused.stderr
    file.write_text(json.dumps(changed | {"options": {"lora": "mine"}}) + "\n")
    for given in ((), ("--lora", "other=own/adapter")):
        refused = command("replay", file, *given)
        assert refused.exit_code == 2 and "recorded with the adapter 'mine'; give --lora mine=PATH" in refused.stderr
    file.write_text(lines[0])
    refused = command("replay", file, "--lora", "mine=own/adapter")
    assert refused.exit_code == 2 and "leave out --lora" in refused.stderr
    images = [{"time": 0, "image": "AAAA"}]
    given = {"event": "input", "after": 0, "interrupts": False, "prompts": [], "frames": images, "final": True}
    file.write_text(lines[0] + json.dumps(given) + "\n")
    refused = command("replay", file)
    assert refused.exit_code == 2 and "line 2: " in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((CLIP, "What?", "--pace", "-1"), "--pace"),
        ((CLIP, "What?", "--fps", "0", "--pace", "0"), "--fps"),
        ((CLIP, "What?", "--fps", "1e300"), "--fps"),
        ((CLIP, "What?", "--temperature", "0.5"), "--sample"),
        ((CLIP, "What?", "--when-behind", "never"), "when-behind"),
        ((CLIP, "What?", "--record", "."), "is a folder"),
        ((CLIP, "What?", "--record", "none/a.jsonl"), "--record none/a.jsonl: cannot be written"),
        ((CLIP, "What?", "--window", "-1"), "--window -1 must be more than 0"),
        ((CLIP, "What?", "--queue", "0"), "--queue 0 must be at least 1"),
        ((CLIP, "What?", "--max-context", "5"), "--max-context 5 must be at least 256"),
        ((CLIP, "What?", "--max-context", "99999999"), "--max-context 99999999 is more than"),
        ((CLIP + "#t=20,30", "What?"), "segment [20.0, 30.0] lies outside the video, which lasts 6.040 seconds"),
        ((CLIP, " "), "question"),
        ((CLIP, CLIP, "What?"), "is a file"),
        (("none.mp4", "What?"), "none.mp4"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_line(command, arguments, said):
    result = command("watch", *arguments)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr


def test_a_file_with_content_is_recorded_over_only_if_that_is_wanted(command, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text("mine\n")
    refused = command("watch", *SHORT, "--record", file)
    assert refused.exit_code == 2 and "is not empty; --overwrite" in refused.stderr
    assert file.read_text() == "mine\n" and "mossvl-tiny" not in refused.stderr  # Nothing was loaded.
    assert command("watch", *SHORT, "--record", file, "--overwrite").exit_code == 0
    assert json.loads(file.read_text().splitlines()[0])["event"] == "session"


def test_a_question_is_typed_and_ctrl_c_interrupts_speech_and_then_ends():
    arguments = ["watch", CLIP, "Tell me when a star appears.", "--pace", "0.01", "--json", "--ignore-eos"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mossvl", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    events = []
    try:

        def until(kind):
            for line in process.stdout:
                events.append(json.loads(line))
                if events[-1]["event"] == kind:
                    return events[-1]
            raise AssertionError(process.communicate())

        until("text")
        process.stdin.write("What is it?\n")
        process.stdin.flush()
        assert until("turn")["text"] == "What is it?"
        until("text")
        process.send_signal(signal.SIGINT)
        until("interrupted")
        process.send_signal(signal.SIGINT)
        assert until("closed")["reason"] == "closed"
        assert process.wait(60) == 130
        told = process.stderr.read()
        assert "interrupted; Ctrl-C again ends" in told and "Traceback" not in told
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("when", "number", "code"),
    [
        ("loading", signal.SIGINT, 130),
        ("silent", signal.SIGINT, 130),
        ("silent", signal.SIGTERM, 143),
        ("replay", signal.SIGINT, 130),
    ],
)
def test_a_command_that_a_signal_stops_ends_at_once_and_says_so_by_its_code(start, tmp_path, when, number, code):
    record = tmp_path / "events.jsonl"
    arguments = ["watch", tmp_path, "What comes?", "--json", "--record", record, "--max-new-tokens", "3"]
    (tmp_path / "a.txt").write_text("A folder that stays empty.")
    if when == "replay":
        begin = {"event": "session", "form": 1, "messages": [{"role": "user", "content": "Go on."}]}
        asked = {"event": "input", "after": 0, "interrupts": False, "prompts": ["Go on."], "frames": [], "final": True}
        begin["options"] = {"ignore_eos": True}
        record.write_text(f"{json.dumps(begin)}\n{json.dumps(asked)}\n")
        arguments = ["replay", record, "--json"]
    process = start(*arguments)
    if when == "loading":
        assert b"mossvl-tiny" in process.stderr.readline()
    else:
        assert b"speech_started" in process.stdout.readline()
        until = b'"limit"' if when == "silent" else b'"text"'
        while until not in process.stdout.readline():
            pass
    process.send_signal(number)
    assert process.wait(60) == code
    assert b"Traceback" not in process.stderr.read()
