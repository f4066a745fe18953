"""`mossvl serve -dp 2 -tp 2` with mossvl-tiny on a CPU: two replicas of two processes each, behind one address."""

import os
import re
import signal

import httpx
import pytest
from descendants import descendants, left
from live_sockets import pushed, simple, started
from responding import SIGN, client_of, user
from running import serving, waited

FLAGS = ("-dp", "2", "-tp", "2", "--device", "cpu", "--decoders", "1")
RANK = "mossvl.parallel.rank"
QUESTION = {"type": "text", "text": "What is written there?"}


@pytest.fixture(scope="module")
def server():
    with serving(*FLAGS) as running:
        both_ready(running)
        yield running


def both_ready(server):
    waited(lambda: httpx.get(f"{server.url}/health").json()["replicas"] == {"0": "ready", "1": "ready"}, server)


def processes(server):
    """Replica → its process and that of its other rank."""
    found = {}
    for replica in (0, 1):
        own = int(re.findall(rf"replica {replica} is ready: process (\d+)", server.log)[-1])
        (other,) = [pid for pid, line in descendants(own).items() if RANK in line]
        found[replica] = own, other
    return found


def answers(server, count=6):
    part = {"type": "image_url", "image_url": {"url": SIGN["image_url"]}}
    chat = client_of(server).chat.completions
    for number in range(count):
        messages = [{"role": "system", "content": f"{number}"}, *user(part, QUESTION)]
        yield chat.create(model="mossvl-tiny", messages=messages).choices[0].message.content


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_restarts_only_its_replica(server, number):
    assert set(answers(server)) == {"MOSS"}
    before = processes(server)
    os.kill(before[0][1], number)
    told = rf"replica 0 has failed: .*: rank 1 of 2 \(process {before[0][1]}\) .*; it is killed"
    waited(lambda: re.search(told, server.log), server)
    assert set(answers(server, 2)) == {"MOSS"}  # By the other one.
    waited(lambda: re.findall(r"replica 0 is ready: process (\d+)", server.log)[-1] != str(before[0][0]), server)
    both_ready(server)
    after = processes(server)
    assert after[1] == before[1] and not set(after[0]) & set(before[0])
    assert not left(before[0])
    assert set(answers(server)) == {"MOSS"}


def test_nothing_is_left_of_replicas_of_several_ranks():
    with serving(*FLAGS) as server:
        both_ready(server)
        every = list(descendants(server.process.pid))
        assert sum(RANK in line for line in descendants(server.process.pid).values()) == 2
        assert server.stop() == 0, server.log
        assert not left(every)


def watched(server):
    """The first word of a live session; how many follow depends on when the frame comes."""
    with simple(server) as client:
        started(client, prompt="Tell what you see.")
        pushed(client, timestamp=0.0)
        said = client.until("output")["text"]
        client.send("stop")
        client.closed()
    return said.split()[0]


def test_live_sessions_say_what_they_say_with_one_process(server):
    said = {watched(server) for _ in range(3)}
    with serving("--device", "cpu", "--decoders", "1") as one:
        assert said == {watched(one)}
