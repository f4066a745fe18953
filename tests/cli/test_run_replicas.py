"""`mossvl run --data-parallel-size`: the same answers, each once, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUERIES = [{"id": n, "prompt": f"Count to {n}.", "generate_kwargs": {"max_new_tokens": 40}} for n in range(24)]
MANY = [{"id": n, "prompt": f"Count to {n}.", "generate_kwargs": {"max_new_tokens": 300}} for n in range(400)]
PATIENCE = 180


@pytest.fixture
def arguments(run_of):
    return lambda queries=QUERIES: run_of(queries, batch_size=4)


def children(pid):
    """Processes that a process has started, and which may be replicas."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"resource_tracker" not in (stat.parent / "cmdline").read_bytes():
                found.append(number)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def waited(condition, process=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(path):
    return sorted(path.read_bytes().splitlines()) if path.exists() else []


def test_a_run_with_replicas_gives_the_lines_of_one_without_also_when_one_is_killed(
    command, start, arguments, tmp_path
):
    output, whole = tmp_path / "answers.jsonl", tmp_path / "whole.jsonl"
    process = start(*arguments(QUERIES), "-o", output, "-dp", 2)
    waited(lambda: len(lines(output)) >= 2, process)
    replicas = children(process.pid)
    assert len(replicas) == 2
    os.kill(replicas[1], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (0, b""), stderr
    assert b"was ended by SIGKILL; it is started again" in stderr and b"24 answers in" in stderr
    assert command(*arguments(QUERIES), "-o", whole).exit_code == 0
    assert lines(output) == lines(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_process(start, arguments, tmp_path, number):
    output, memory = tmp_path / "answers.jsonl", set(os.listdir("/dev/shm"))
    process = start(*arguments(MANY), "-o", output, "--data-parallel-size", 2)
    waited(lambda: lines(output), process)
    replicas = children(process.pid)
    assert len(replicas) == 2
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    waited(lambda: not any(map(alive, replicas)))
    assert stdout == b"" and set(os.listdir("/dev/shm")) <= memory
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        (line,) = stderr.decode().splitlines()
        assert line.startswith("mossvl: error: stopped: ") and "--resume" in line


def test_a_run_that_is_stopped_while_replicas_load_leaves_no_process(start, arguments, tmp_path):
    process = start(*arguments(), "-o", tmp_path / "answers.jsonl", "-dp", 2)
    waited(lambda: len(children(process.pid)) == 2, process)
    replicas = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    (line,) = stderr.decode().splitlines()
    assert process.returncode == 130 and line.startswith("mossvl: error: stopped: 0 answered")
    waited(lambda: not any(map(alive, replicas)))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["-dp", 0], "--data-parallel-size 0 must be at least 1"),
        (["-dp", 2, "--device", "cuda"], "there is no usable GPU on this machine"),
        (["-dp", 2, "--device", "nonsense"], "is not a device"),
        (["-dp", 2, "--quantization", "fp9"], "fp9"),
    ],
)
def test_replicas_that_cannot_be_are_one_line_and_exit_code_2(command, arguments, tmp_path, more, told):
    import torch

    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there are GPUs")
    result = command(*arguments(), "-o", tmp_path / "answers.jsonl", *more)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "") and line.startswith("mossvl: error: ") and told in line


def test_a_checkpoint_without_weights_is_one_line_and_exit_code_2(command, checkpoint, arguments, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(checkpoint).iterdir():
        if file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    result = command(*arguments(), "-c", broken, "-o", tmp_path / "answers.jsonl", "-dp", 2)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "") and "safetensors" in line


def test_a_program_without_a_guard_may_make_replicas(checkpoint, tmp_path):
    """Processes that 'spawn' starts run the main program's file again, as a rule."""
    program = tmp_path / "program.py"
    program.write_text(
        "from mossvl import MossVL\n"
        "print('once')\n"
        f"llm = MossVL({str(checkpoint)!r}, device='cpu', data_parallel_size=2)\n"
        "print(len(llm.generate(['yes', 'no'])))\n"
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "once\n2\n", "")
