"""Processes are killed at random moments: every answer is right, once, or a clean error, and nothing is left.

MOSSVL_KILLS says how many are killed in each test.
"""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from descendants import descendants, left

data = pytest.importorskip("ray.data", reason="no Ray; .ci/ray installs it")
serve = pytest.importorskip("ray.serve")

KILLS = int(os.environ.get("MOSSVL_KILLS", "2"))
PATIENCE = 300
SHORT = {"max_new_tokens": 8, "ignore_eos": True}
ACTOR, REPLICA = "ray::MapWorker", "ray::ServeReplica"


def processes(name):
    return [pid for pid, line in descendants().items() if line.startswith(name)]


def engines():
    """Processes of actors' engines."""
    return [pid for actor in processes(ACTOR) for pid, line in descendants(actor).items() if "spawn_main" in line]


def kill(pids, seed):
    """Kill one of these processes → it and all that it had started."""
    pid = random.Random(seed).choice(sorted(pids))
    below = descendants(pid)
    with suppress(ProcessLookupError):  # It has just ended.
        os.kill(pid, signal.SIGKILL)
    return {pid, *below}


def whole(text):
    """An answer without the character that its last token has begun: the server leaves it out."""
    return text.rstrip("\ufffd")


def shared_memory():
    """Names of blocks of shared memory; semaphores are not these processes' alone to have."""
    return {file.name for file in Path("/dev/shm").iterdir() if not file.name.startswith("sem.")}


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    before = shared_memory()
    yield
    assert shared_memory() <= before


def test_every_row_is_answered_once_while_actors_are_killed(cluster, checkpoint, llm):
    from mossvl.ray import build_processor

    count = 60 * (KILLS + 1)
    rows = [{"id": number, "prompt": f"hello {number % 50}", "generate_kwargs": SHORT} for number in range(count)]
    processor = build_processor(
        model_source=checkpoint,
        engine_kwargs={"memory": 1 << 24, "device": "cpu"},
        batch_size=5,
        concurrency=2,
        max_concurrent_batches=2,
        should_continue_on_error=True,
    )
    moments = random.Random(0)
    answers, killed, due, unlucky = Counter(), set(), moments.randrange(1, 60), 0
    expected = [one.token_ids for one in llm.generate([{**row, "id": None} for row in rows[:50]])]
    for row in processor(data.from_items(rows, override_num_blocks=count // 5)).iter_rows():
        answers[row["id"]] += 1
        if row["__inference_error__"]:  # Its engine was killed three times.
            assert row["__inference_error__"].endswith(
                "SIGKILL before the answer was complete, also when the query was asked alone"
            )
            unlucky += 1
        else:
            assert row["generated_tokens"] == expected[row["id"] % 50]
        due -= 1
        if due == 0 and processes(ACTOR):
            killed |= kill(processes(ACTOR) + engines(), len(answers))
            due = moments.randrange(30, 60)
    assert killed
    assert answers == Counter(range(count))
    assert unlucky < count / 100
    assert left(killed) == []


def test_answers_are_right_or_clean_errors_while_replicas_are_killed(cluster, checkpoint, llm, media, tmp_path):
    from mossvl.ray import AppArgs, build_app

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    engine, server = {"memory": 1 << 24}, {"decoders": 1}
    given = {"model": checkpoint, "device": "cpu", "engine": engine, "server": server, "num_replicas": 2}
    given["shared_folder"] = str(tmp_path / "shared")
    serve.run(build_app(AppArgs(**given, health_check_period_s=1)))
    prompts = [f"hello {number}" for number in range(20)]
    expected = [whole(one.text) for one in llm.generate([{"prompt": one, "generate_kwargs": SHORT} for one in prompts])]
    outcomes, stop, url = Counter(), threading.Event(), f"http://127.0.0.1:{port}/v1"
    with (media / "small.png").open("rb") as file:
        uploaded = httpx.post(f"{url}/files", files={"file": ("small.png", file, "image/png")}, timeout=PATIENCE).json()

    def client(seed):
        moments = random.Random(seed)
        while not stop.is_set():
            number = moments.randrange(len(prompts))
            asked = {"messages": [{"role": "user", "content": prompts[number]}], "max_tokens": 8, "ignore_eos": True}
            try:
                found = httpx.post(f"{url}/chat/completions", json=asked, timeout=PATIENCE)
            except httpx.HTTPError:
                outcomes["no answer"] += 1
                continue
            right = found.status_code == 200 and whole(found.json()["choices"][0]["message"]["content"])
            outcomes["right" if right == expected[number] else found.status_code] += 1

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(3)]
    for one in clients:
        one.start()
    killed, moments = set(), random.Random(1)
    try:
        for number in range(KILLS):
            time.sleep(moments.uniform(0, 4))
            killed |= kill(processes(REPLICA), number)
            before, deadline = outcomes["right"], time.monotonic() + PATIENCE
            while not (len(processes(REPLICA)) >= 1 and outcomes["right"] > before + 20):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        stop.set()
        for one in clients:
            one.join()
    # Every replica knows the file, of which none has taken it if all have died since.
    picture = {"type": "image_url", "image_url": {"url": f"upload:{uploaded['id']}"}}
    asked = {"messages": [{"role": "user", "content": [picture]}], "max_tokens": 1}
    known = [httpx.post(f"{url}/chat/completions", json=asked, timeout=PATIENCE).status_code for _ in range(12)]
    serve.shutdown()
    assert set(known) == {200}
    assert outcomes.keys() <= {"right", "no answer", 500, 503}
    assert outcomes["right"] > 10 * sum(count for kind, count in outcomes.items() if kind != "right")
    assert left(killed) == []
