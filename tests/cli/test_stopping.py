"""Real processes that are stopped, killed, or no longer listened to."""

import json
import signal
import time

import pytest

QUERIES = [{"id": number, "prompt": f"Count to {number}."} for number in range(16)]


@pytest.fixture
def arguments(checkpoint, tmp_path):
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(json.dumps(query) + "\n" for query in QUERIES))
    return ["run", queries, "-c", checkpoint, "--max-new-tokens", 40, "--batch-size", 3, "--device", "cpu"]


def wait_for_lines(process, path, count):
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(path):
    return sorted(path.read_bytes().splitlines())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_to_what_an_uninterrupted_one_gives(command, start, arguments, tmp_path, number):
    output, whole = tmp_path / "answers.jsonl", tmp_path / "whole.jsonl"
    process = start(*arguments, "-o", output)
    wait_for_lines(process, output, 2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == b""
    if number == signal.SIGKILL:
        assert process.returncode == -number
        with output.open("ab") as file:
            file.write(b'{"index": 15, "que')  # As if it had been cut while writing.
    else:
        assert process.returncode == 128 + number
        (line,) = stderr.decode().splitlines()
        assert line.startswith("mossvl: error: stopped: ") and "--resume" in line
    before = output.read_bytes().rpartition(b"\n")[0]
    assert 2 <= before.count(b"\n") + 1 < len(QUERIES)
    result = command(*arguments, "-o", output, "--resume")
    assert result.exit_code == 0, result.stderr
    assert output.read_bytes().startswith(before)
    assert command(*arguments, "-o", whole).exit_code == 0
    assert lines(output) == lines(whole)
    assert len(lines(whole)) == len(QUERIES)


def test_when_nobody_reads_the_answer_any_more_the_command_ends_quietly(start, checkpoint):
    process = start("ask", "-c", checkpoint, "Tell me everything.", "--max-new-tokens", 100_000, "--device", "cpu")
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
