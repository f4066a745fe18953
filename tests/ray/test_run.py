"""`mossvl run --ray` answers the same questions with the same tokens, each once, also after it was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from descendants import descendants, left

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray.data", reason="no Ray; .ci/ray installs it")

MANY = 150
SHORT = ("--max-new-tokens", "6")
FIRST = [
    {"id": "first", "prompt": "hello"},
    {"prompt": "x", "images": ["none.png"]},
    {"messages": [{"role": "user", "content": "Who?"}], "system_prompt": "You are brief."},
    {"prompt": 3},
]


@pytest.fixture
def start(checkpoint, cluster):
    """Starts `mossvl run` with these arguments, on the cluster; its `stdout` has what it prints anywhere."""
    started = []

    def start(*arguments, address=cluster):
        command = [sys.executable, "-m", "mossvl", "run", "--device", "cpu", "-c", checkpoint]
        given = [] if address is None else ["--ray", address]
        process = subprocess.Popen(
            [*command, *map(str, arguments), *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def ended(process):
    told, _ = process.communicate(timeout=300)
    return process.returncode, told.splitlines()


@pytest.fixture
def queries(tmp_path):
    path = tmp_path / "queries.jsonl"
    rows = [*FIRST, *({"id": number, "prompt": f"hello {number}"} for number in range(MANY - len(FIRST)))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return path


def answers_in(path):
    rows = (
        [row for part in path.glob("*.parquet") for row in parquet.read_table(part).to_pylist()]
        if path.is_dir()
        else [json.loads(line) for line in path.read_text().splitlines()]
    )
    assert len({row["index"] for row in rows}) == len(rows)
    return {row["index"]: row for row in rows}


def test_answers_are_those_of_a_run_without_ray_in_the_words_of_ray(start, queries, tmp_path):
    code, told = ended(start(queries, "-o", tmp_path / "alone.jsonl", *SHORT, address=None))
    assert code == 1
    alone = answers_in(tmp_path / "alone.jsonl")
    code, told = ended(start(queries, "-o", tmp_path / "all.jsonl", *SHORT))
    assert code == 1
    first, last = told
    assert first.startswith("mossvl: the first error: ")
    assert last.startswith(f"mossvl: {MANY} answers in ") and "2 of them errors" in last
    answers = answers_in(tmp_path / "all.jsonl")
    assert answers.keys() == alone.keys()
    for index, answer in answers.items():
        one = alone[index]
        assert [answer[name] for name in ("query", "generated_text", "num_input_tokens", "num_generated_tokens")] == [
            one[name] for name in ("query", "text", "prompt_tokens", "new_tokens")
        ]
        assert answer.get("id") == one.get("id")
        assert len(answer["generated_tokens"]) == one["new_tokens"]
        assert answer["__inference_error__"] == one.get("error", "")


def test_a_run_that_was_killed_goes_on_where_it_was_and_as_parquet(start, queries, tmp_path):
    output = tmp_path / "answers.jsonl"
    process = start(queries, "-o", output, *SHORT)
    while not (output.exists() and output.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = output.read_bytes().rpartition(b"\n")[0]
    assert kept
    code, _ = ended(start(queries, "-o", output, *SHORT, "--resume"))
    assert code == 1
    assert output.read_bytes().startswith(kept)
    assert len(answers_in(output)) == MANY
    code, _ = ended(start(queries, "-o", tmp_path / "answers.parquet", *SHORT))
    assert code == 1
    rows = answers_in(tmp_path / "answers.parquet")
    assert {index: row["generated_tokens"] for index, row in rows.items()} == {
        index: row["generated_tokens"] for index, row in answers_in(output).items()
    }


def test_a_run_that_is_interrupted_says_how_it_goes_on_and_leaves_nothing(start, queries, tmp_path):
    output = tmp_path / "answers.jsonl"
    process = start(queries, "-o", output, *SHORT, address="local")
    begun = set()
    while not (output.exists() and output.stat().st_size) and process.poll() is None:
        begun |= descendants(process.pid).keys()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, told = ended(process)
    assert code == 130
    assert [line for line in told if line.startswith("mossvl: ")][-1].endswith("with --resume goes on")
    assert left(begun) == []


def test_a_folder_of_videos_is_asked_about_by_the_nodes(start, tmp_path, media):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in "ab":
        os.link(media / "clip_10fps_6s.mp4", folder / f"{name}.mp4")
    code, _ = ended(start(folder, "--prompt", "What?", "-o", tmp_path / "answers.parquet", *SHORT))
    assert code == 0
    answers = answers_in(tmp_path / "answers.parquet")
    assert [answers[index]["id"] for index in range(2)] == ["a.mp4", "b.mp4"]
    assert answers[0]["generated_tokens"] == answers[1]["generated_tokens"] != []


@pytest.fixture
def silent():
    """The address of something that listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "SILENT", "ray://127.0.0.1:1", "none:6379"])
def test_a_cluster_that_is_not_there_is_told_in_one_line(start, queries, tmp_path, silent, address):
    process = start(queries, "-o", tmp_path / "answers.jsonl", address=address.replace("SILENT", silent))
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    code, told = ended(process)
    watchdog.cancel()
    assert code == 2
    (line,) = told
    assert line.startswith("mossvl: error: ") and "Ray cluster" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cuda"), "needs 1 GPUs of one node, but the largest node of this Ray cluster has 0"),
        (("--lora", "one=/none"), "/none is not a folder; expected the folder of an adapter"),
    ],
)
def test_what_no_engine_can_begin_with_is_told_in_one_line(start, queries, tmp_path, arguments, message):
    code, told = ended(start(queries, "-o", tmp_path / "answers.jsonl", *arguments))
    assert code == 2
    (line,) = told
    assert line.startswith("mossvl: error: ") and message in line
