"""A replica that does not answer: it gets no requests, and comes back when it goes on, or is killed."""

import asyncio
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from replicas.asking import (
    CHAT,
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
from replicas.stand_ins import PATIENCE, waited

from mossvl.replicas.replica import Replica, State
from mossvl.replicas.shares import Share
from mossvl.server.front import checks
from mossvl.server.front.about import About


def silent(front, *numbers):
    waited(lambda: {number for number, state in states(front).items() if state == "silent"} == set(map(str, numbers)))


def open_at(front, number):
    page = CLIENT.get(f"{front.url}/metrics").text
    return next(float(line.split()[-1]) for line in page.splitlines() if f'requests_open{{replica="{number}"}}' in line)


def test_a_stopped_replica_gets_nothing_until_it_goes_on_and_keeps_what_it_has():
    with fronting(2, unanswered=10_000) as front, ThreadPoolExecutor(1) as pool:
        ready(front, 2)
        stopped, other = (process for _, process in sorted(processes(front).items()))
        os.kill(other, signal.SIGSTOP)
        silent(front, 1)
        kept = pool.submit(ask, front, "kept", seed=2000)
        waited(lambda: open_at(front, 0))
        os.kill(other, signal.SIGCONT)
        silent(front)
        os.kill(stopped, signal.SIGSTOP)
        silent(front, 0)
        assert {who(front)["process"] for _ in range(20)} == {other}
        assert {ask(front, f"question {number}").json()["replica"] for number in range(20)} == {1}
        assert 'mossvl_front_replica_ready{replica="0"} 0.0' in CLIENT.get(f"{front.url}/metrics").text
        assert CLIENT.get(f"{front.url}/ready").status_code == 200
        os.kill(stopped, signal.SIGCONT)
        silent(front)
        waited(lambda: who(front)["process"] == stopped)
        assert kept.result().json() | {"id": ""} == {"replica": 0, "text": "kept", "id": ""}
        assert processes(front) == {0: stopped, 1: other} and "it is killed" not in front.log


def test_without_a_replica_that_answers_requests_are_refused_for_now():
    with fronting(1, unanswered=10_000) as front:
        ready(front, 1)
        (process,) = processes(front).values()
        os.kill(process, signal.SIGSTOP)
        silent(front, 0)
        response = ask(front, "anyone?")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_replica")
        assert "retry-after" in response.headers and CLIENT.get(f"{front.url}/ready").status_code == 503
        os.kill(process, signal.SIGCONT)
        waited(lambda: ask(front, "anyone?").status_code == 200)


def test_what_a_replica_that_stays_silent_has_ends_as_when_it_dies():
    with fronting(1, answer_seconds=1, unanswered=3) as front, ThreadPoolExecutor(8) as pool:
        ready(front, 1)
        (process,) = processes(front).values()
        single = pool.submit(ask, front, "one two", seed=10_000 * PATIENCE)
        streams = [
            pool.submit(streamed, front, "one two", path, seed=10_000 * PATIENCE)
            for path in (CHAT, RESPONSES, MESSAGES)
        ]
        with socket_of(front) as live:
            live.send(json.dumps({"type": "prompt", "text": "Watch."}))
            live.recv(PATIENCE)
            waited(lambda: open_at(front, 0) == 4)
            os.kill(process, signal.SIGSTOP)
            told, code = until_closed(live)
        assert code == 1012 and told[-1]["type"] == "session_end"
        assert single.result().status_code == 503 and "retry-after" in single.result().headers
        chat, response, message = (one.result() for one in streams)
        assert json.loads(chat[-1][6:])["error"]["code"] == "replica_failed"
        assert json.loads(response[-1][6:])["type"] == "response.failed"
        assert json.loads(message[-1][6:])["type"] == "error"
        ready(front, 1)
        assert "replica 0 does not answer; it is killed" in front.log
        assert process not in processes(front).values()


def test_a_rolling_restart_goes_on_when_the_replica_that_is_to_end_is_stopped():
    with fronting(2, answer_seconds=1, unanswered=2) as front, ThreadPoolExecutor(2) as pool:
        ready(front, 2)
        before = processes(front)
        asked = [pool.submit(ask, front, f"question {number}", seed=10_000 * PATIENCE) for number in range(2)]
        waited(lambda: open_at(front, 0) + open_at(front, 1) == 2)
        for process in before.values():
            os.kill(process, signal.SIGSTOP)
        front.process.send_signal(signal.SIGHUP)
        assert {one.result().status_code for one in asked} == {503}
        waited(lambda: "all replicas were restarted" in front.log)
        ready(front, 2)
        assert not set(before.values()) & set(processes(front).values())


class Heard:
    """What is told of a replica, whose answers come late because nothing else goes on: `over` after a few of them."""

    def __init__(self, answers):
        self.told, self.left, self.over = [], answers, asyncio.Event()

    def silent(self, number):
        self.told.append("silent")

    def well(self, number):
        self.told.append("well")

    def broken(self, number, why):
        self.told.append(why)

    async def answer(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        time.sleep(2 * checks.LATE * checks.ANSWER_SECONDS)  # The front itself stands still.
        self.left -= 1
        if self.left == 0:
            self.over.set()
        writer.close()


def test_a_front_that_stood_still_itself_takes_no_replica_to_be_silent(monkeypatch, tmp_path):
    for name, value in {"PAUSE_SECONDS": 0.0, "SOON_SECONDS": 0.0, "ANSWER_SECONDS": 0.05, "UNANSWERED": 1}.items():
        monkeypatch.setattr(checks, name, value)
    replica = Replica(0, Share(), State.READY, starts=1, info=About(str(tmp_path / "0.sock")))

    async def run():
        heard = Heard(answers=3)
        async with await asyncio.start_unix_server(heard.answer, replica.info.socket):
            checking = asyncio.create_task(checks.Checks([replica], heard).run())
            await asyncio.wait_for(heard.over.wait(), PATIENCE)
            checking.cancel()
        return heard.told

    assert asyncio.run(run()) == []
