"""Real processes that are stopped, killed, or no longer listened to."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from descendants import descendants, left

from mossvl.cli.answers import AnswerFile


def query(number, tokens):
    return {"id": number, "prompt": f"Count to {number}.", "generate_kwargs": {"max_new_tokens": tokens}}


QUERIES = [*(query(number, 20) for number in range(14)), query(14, 300)]
"""The last one takes so long that a signal surely comes in time."""


@pytest.fixture
def arguments(run_of):
    return lambda queries=QUERIES: run_of(queries, batch_size=3)


def wait_for_lines(process, path, count):
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(path):
    return sorted(path.read_bytes().splitlines())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_resumes_to_what_an_uninterrupted_one_gives(command, start, arguments, tmp_path, number):
    output, whole = tmp_path / "answers.jsonl", tmp_path / "whole.jsonl"
    process = start(*arguments(), "-o", output)
    wait_for_lines(process, output, 2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == b""
    if number == signal.SIGKILL:
        assert process.returncode == -number
        with output.open("ab") as file:
            file.write(b'{"index": 14, "que')  # As if it had been cut while writing.
    else:
        assert process.returncode == 128 + number
        (line,) = stderr.decode().splitlines()
        assert line.startswith("mossvl: error: stopped: ") and "--resume" in line
    before = output.read_bytes().rpartition(b"\n")[0]
    assert 2 <= before.count(b"\n") + 1 < len(QUERIES)
    result = command(*arguments(), "-o", output, "--resume")
    assert result.exit_code == 0, result.stderr
    assert output.read_bytes().startswith(before)
    assert command(*arguments(), "-o", whole).exit_code == 0
    assert lines(output) == lines(whole)
    assert len(lines(whole)) == len(QUERIES)


def test_sigterm_says_how_to_resume_too(command, arguments, tmp_path, media, monkeypatch):
    """In this process: it gets its handlers back, and no thread goes on decoding."""
    output, handlers = tmp_path / "answers.jsonl", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    written, write = threading.Event(), AnswerFile.write

    def tell(answers, answer):
        write(answers, answer)
        written.set()

    def terminate():
        if written.wait(120):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(AnswerFile, "write", tell)

    every_frame = {"video_fps": 25, "max_frames": 1000, "min_pixels": 200_000}
    long = query(1, 5000) | {"videos": [str(media / "clip_40s.mp4")], "media_kwargs": every_frame}
    thread = threading.Thread(target=terminate)
    thread.start()
    result = command(*arguments([query(0, 1), long]), "-o", output)
    thread.join()
    assert result.exit_code == 143
    assert result.stderr.startswith("mossvl: error: stopped: 1 answered in ") and "--resume" in result.stderr
    assert output.read_bytes().count(b"\n") == 1
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for loading in [one for one in threading.enumerate() if one.name == "mossvl-media"]:
        loading.join(20)
        assert not loading.is_alive()


def test_when_nobody_reads_the_answer_any_more_the_command_ends_quietly(start, checkpoint):
    process = start("ask", "-c", checkpoint, "Tell me everything.", "--max-new-tokens", 100_000, "--device", "cpu")
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("replicas", [1, 2])
def test_ctrl_c_while_a_server_imports_ends_it_and_what_it_has_started(replicas):
    """A terminal sends Ctrl-C to all processes of the command: none of them says a word of its own."""
    command = [sys.executable, "-m", "mossvl", "serve", "--port", "0", "-dp", str(replicas)]
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    started = {}
    deadline = time.monotonic() + 120
    while not any("forkserver" in line for line in started.values()):
        assert serving.poll() is None and time.monotonic() < deadline
        started = descendants(serving.pid)
        time.sleep(0.01)
    os.killpg(serving.pid, signal.SIGINT)
    _, errors = serving.communicate(timeout=120)
    assert not left(started)
    assert "Traceback" not in errors and "KeyboardInterrupt" not in errors


def test_a_training_that_is_told_to_end_with_its_workers_ends_in_one_line(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": "Who?", "response": f"I, {n}."}) + "\n" for n in range(50)))
    command = [sys.executable, "-m", "mossvl", "train", data, "-o", tmp_path / "out", "--device", "cpu", "--rank", "2"]
    training = subprocess.Popen(
        [*command, "--save-every", "5", "--epochs", "1000", "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "checkpoint-5").exists():
        assert training.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(training.pid, signal.SIGTERM)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 143
    last = "mossvl: error: stopped: the same command with --resume goes on from the last checkpoint"
    assert errors.decode().splitlines()[-1] == last
    assert "Traceback" not in errors.decode()
