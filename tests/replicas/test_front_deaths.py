"""The front when replicas die, are replaced, or end: what clients see of it, and what is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from replicas.asking import (
    CLIENT,
    MESSAGES,
    RESPONSES,
    ask,
    processes,
    ready,
    socket_of,
    states,
    streamed,
    until_closed,
    who,
)
from replicas.fronting import fronting
from replicas.stand_ins import PATIENCE, alive, waited

KILLS = int(os.environ.get("MOSSVL_KILLS", "12"))


@pytest.fixture(scope="module")
def front():
    with fronting(3) as one:
        ready(one, 3)
        yield one


# --- deaths ----------------------------------------------------------------------------------------------------------


def test_a_request_whose_replica_dies_before_its_answer_may_be_sent_again(front):
    response = ask(front, "die")
    assert response.status_code == 503 and "retry-after" in response.headers
    assert response.json()["error"]["code"] == "replica_failed"
    ready(front, 3)


def test_a_stream_of_chat_ends_with_an_error_when_its_replica_dies(front):
    lines = streamed(front, "one die two")
    assert json.loads(lines[-1][6:])["error"]["code"] == "replica_failed" and "one" in lines[1]
    ready(front, 3)


def test_a_stream_of_messages_ends_with_an_error_event(front):
    lines = streamed(front, "one die two", MESSAGES)
    assert lines[-2] == "event: error" and json.loads(lines[-1][6:])["type"] == "error"
    ready(front, 3)


def test_a_stream_of_a_response_ends_as_failed(front):
    lines = streamed(front, "one die two", RESPONSES)
    error, failed = (
        (json.loads(line[6:]) for line in lines if line.startswith("data: "))
        if False
        else (
            json.loads(lines[-3][6:]),
            json.loads(lines[-1][6:]),
        )
    )
    assert (error["type"], error["sequence_number"]) == ("error", 2)
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 3)
    assert (failed["response"]["id"], failed["response"]["status"]) == ("resp_1", "failed")
    ready(front, 3)


def test_a_live_session_runs_both_ways_and_is_closed_by_its_client(front):
    with socket_of(front) as live:
        for text in ("one", "two " * 10_000):
            live.send(json.dumps({"type": "prompt", "text": text}))
            live.send(bytes(100_000))
            assert json.loads(live.recv(PATIENCE)) == {"type": "output", "text": text}
        assert CLIENT.get(f"{front.url}/health").json()["session_active"]
    assert live.close_code == 1000
    waited(lambda: not CLIENT.get(f"{front.url}/health").json()["session_active"])


def test_a_live_session_whose_replica_dies_is_told_how_to_go_on(front):
    with socket_of(front) as live:
        live.send(json.dumps({"type": "start", "prompt": "Watch."}))
        live.send(json.dumps({"type": "prompt", "text": "What now?"}))
        live.send(json.dumps({"type": "die"}))
        told, code = until_closed(live)
    assert code == 1012
    assert [one["type"] for one in told[-2:]] == ["error", "session_end"]
    said = [(one["role"], one["content"]) for one in told[-1]["prefill"]]
    assert said[:2] == [("user", "Watch."), ("assistant", "ready")] or ("user", "What now?") in said
    ready(front, 3)


def test_a_replica_whose_device_has_failed_is_replaced_once_it_refuses_a_request():
    with fronting(2, pause_seconds=10 * PATIENCE) as front:
        ready(front, 2)
        failed = processes(front)[0]
        (front.folder / "broken").write_text(str(failed))
        waited(lambda: CLIENT.get(f"{front.url}/who").status_code == 503)
        waited(
            lambda: (
                "replica 0 has failed: it does not say why; it is killed" in front.log and len(processes(front)) == 2
            )
        )
        assert failed not in processes(front).values()


def test_other_replicas_never_notice_a_death(front):
    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(streamed, front, f"number {number} " + "w " * 30, seed=10) for number in range(16)]
        time.sleep(0.1)
        victim = who(front)
        os.kill(victim["process"], signal.SIGKILL)
        for one in streams:
            lines = one.result()
            if lines[-1] != "data: [DONE]":
                told = lines[-1].removeprefix("data: ")  # Of a stream that had not begun, a refusal.
                assert json.loads(told)["error"]["code"] == "replica_failed"
                assert all(json.loads(line[6:])["replica"] == victim["replica"] for line in lines[1:-1])
    ready(front, 3)


def test_random_kills_lose_no_answer_and_leave_nothing_behind():
    """Every answer is right, or a clean error of one of those whose replica was killed; MOSSVL_KILLS asks for more."""
    with fronting(3) as front, ThreadPoolExecutor(12) as pool:
        ready(front, 3)
        over, kills, outcomes = time.monotonic() + 10 * PATIENCE, 0, {"answered": 0, "failed": 0}

        def client(number):
            asked = 0
            while kills < KILLS and time.monotonic() < over:
                text = f"client {number} asks {asked}"
                asked += 1
                if asked % 2:
                    response = ask(front, text, seed=5)
                    good, failed = response.status_code == 200, response.status_code == 503
                    assert not good or response.json()["text"] == text
                else:
                    lines = streamed(front, text, seed=2)
                    good, failed = lines[-1] == "data: [DONE]", "error" in lines[-1]
                    words = [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines[1:-1]]
                    assert (words if good else words + text.split()[len(words) :]) == text.split() or not words
                assert good or failed
                outcomes["answered" if good else "failed"] += 1

        clients = [pool.submit(client, number) for number in range(10)]
        while kills < KILLS and time.monotonic() < over:
            try:
                os.kill(who(front)["process"], signal.SIGKILL)
                kills += 1
            except (KeyError, ProcessLookupError):  # None was ready; it has just been killed.
                time.sleep(0.05)
        for one in clients:
            one.result()
        assert kills == KILLS and outcomes["answered"] > KILLS / 4
        ready(front, 3)
        left = processes(front).values()
        front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(PATIENCE) == 0, front.log
        assert not any(map(alive, left)) and not list(front.folder.glob("mossvl-*"))


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped"])
def test_nothing_is_left_when_the_front_is_killed(stopped):
    with fronting(2) as front:
        ready(front, 2)
        left = processes(front).values()
        for process in left if stopped else ():
            os.kill(process, signal.SIGSTOP)
        front.process.kill()
        waited(lambda: not any(map(alive, left)))


# --- restart and end -------------------------------------------------------------------------------------------------


def test_a_rolling_restart_fails_no_request():
    with fronting(2) as front, ThreadPoolExecutor(4) as pool:
        ready(front, 2)
        before = processes(front)
        rolling, failures = True, []

        def client(number):
            asked = 0
            while rolling:
                asked += 1
                lines = streamed(front, f"client {number} asks {asked}", seed=5)
                failures.extend([] if lines[-1] == "data: [DONE]" else lines)

        clients = [pool.submit(client, number) for number in range(4)]
        front.process.send_signal(signal.SIGHUP)
        waited(lambda: "all replicas were restarted" in front.log)
        rolling = False
        for one in clients:
            one.result()
        assert failures == []
        after = processes(front)
        assert set(before.values()) & set(after.values()) == set() and len(after) == 2


def test_a_stop_lets_requests_end_and_refuses_new_ones():
    with fronting(2) as front, ThreadPoolExecutor(2) as pool, httpx.Client(timeout=PATIENCE) as kept:
        ready(front, 2)
        kept.get(f"{front.url}/who")
        long = pool.submit(streamed, front, "w " * 40, seed=25)
        waited(lambda: 'open{replica="0"} 1.0' in (page := httpx.get(f"{front.url}/metrics").text)
               or 'open{replica="1"} 1.0' in page)  # fmt: skip
        front.process.send_signal(signal.SIGTERM)
        waited(lambda: "stopping" in front.log)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{front.url}/who")
        assert long.result()[-1] == "data: [DONE]"
        assert front.process.wait(PATIENCE) == 0


def test_replicas_of_another_version_are_not_used():
    with fronting(2) as front:
        ready(front, 2)
        (front.folder / "version").write_text("0.0.0")
        front.process.send_signal(signal.SIGHUP)
        waited(lambda: "the rolling restart ends" in front.log)
        assert states(front) == {"0": "given up", "1": "ready"} and who(front)["replica"] == 1
        assert "replica 0 is of version 0.0.0" in front.log


def test_a_replica_that_cannot_be_used_from_the_beginning_ends_the_server():
    with fronting(2, version="0.0.0") as front:
        assert front.process.wait(PATIENCE) == 1
        assert "is of version 0.0.0" in front.log.splitlines()[-1]


def test_replicas_that_die_as_soon_as_they_are_ready_are_given_up_and_the_last_one_ends_the_server():
    with fronting(2, steady=PATIENCE, early=3) as front:
        ready(front, 2)
        own = processes(front)
        (front.folder / "fleeting").write_text("0")
        os.kill(own[0], signal.SIGKILL)
        waited(lambda: "replica 0 is given up: replica 0 has ended with exit code 9" in front.log)
        assert states(front) == {"0": "given up", "1": "ready"} and who(front)["replica"] == 1
        (front.folder / "fleeting").write_text("01")
        os.kill(own[1], signal.SIGKILL)
        assert front.process.wait(PATIENCE) == 1
        assert "error: replica 1 has ended with exit code 9; 3 of its processes" in front.log.splitlines()[-1]


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "mossvl", "serve", "-dp", "2", "--device", "cpu", "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 2 and f"127.0.0.1:{port} cannot be listened on" in ended.stderr.splitlines()[-1]
