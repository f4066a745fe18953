"""`mossvl serve --data-parallel-size 2` with mossvl-tiny: what its clients see, also when a replica is killed."""

import json
import os
import re
import signal
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from replicas.stand_ins import alive
from responding import EXAMPLES, SIGN, WRITTEN, client_of, respond, user
from running import PATIENCE, serving, waited
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mossvl.cli.main import commands

QUESTION = {"type": "text", "text": "What is written there?"}


@pytest.fixture(scope="module")
def server():
    with serving("-dp", "2", "--device", "cpu", "--decoders", "1") as running:
        both_ready(running)
        yield running


def both_ready(server):
    waited(lambda: httpx.get(f"{server.url}/health").json()["replicas"] == {"0": "ready", "1": "ready"}, server)


def process_of(server, replica):
    return int(re.findall(rf"replica {replica} is ready: process (\d+)", server.log)[-1])


def gauge(server, name):
    """Replica → the value of a metric of the front."""
    page = httpx.get(f"{server.url}/metrics", timeout=PATIENCE).text
    found = re.findall(rf'^mossvl_front_{name}{{replica="(\d)"}} (\S+)$', page, re.MULTILINE)
    return {int(replica): float(value) for replica, value in found}


def kill(server, replica):
    os.kill(process_of(server, replica), signal.SIGKILL)


def test_openais_client_streams_through_the_front(server):
    part = {"type": "image_url", "image_url": {"url": SIGN["image_url"]}}
    messages = [{"role": "user", "content": [part, QUESTION]}]
    chat = client_of(server).chat.completions
    stream = chat.create(model="mossvl-tiny", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "MOSS"
    assert chat.create(model="mossvl-tiny", messages=messages).choices[0].message.content == "MOSS"


def test_an_uploaded_file_is_known_to_every_replica(server):
    client = client_of(server)
    file = client.files.create(file=EXAMPLES / "sign.png", purpose="vision")
    part = {"type": "image_url", "image_url": {"url": f"upload:{file.id}"}}
    before = gauge(server, "requests_total")
    for _ in range(6):
        assert client.files.retrieve(file.id).filename == "sign.png"
    after = gauge(server, "requests_total")
    assert all(after[replica] > before.get(replica, 0) for replica in (0, 1))
    answer = client.chat.completions.create(model="mossvl-tiny", messages=user(part, QUESTION))
    assert answer.choices[0].message.content == "MOSS"
    client.files.delete(file.id)
    assert {httpx.get(f"{server.url}/v1/files/{file.id}").status_code for _ in range(4)} == {404}


def test_a_response_is_continued_also_when_the_replica_that_made_it_is_dead(server):
    client = client_of(server)
    first = respond(client, user(SIGN, WRITTEN))
    assert first.output_text == "MOSS"
    assert respond(client, [WRITTEN_AGAIN], previous_response_id=first.id).output_text == "MOSS"
    kill(server, int(first.id.rpartition("r")[2]))
    waited(lambda: "it is started again" in server.log, server)
    assert respond(client, [WRITTEN_AGAIN], previous_response_id=first.id).output_text == "MOSS"
    both_ready(server)


WRITTEN_AGAIN = {"role": "user", "content": [WRITTEN]}


def frame():
    data = BytesIO()
    Image.new("RGB", (64, 64)).save(data, "JPEG")
    return data.getvalue()


def told(socket):
    """All messages until the server closes, and the code with which it does."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(timeout=PATIENCE)))
    except ConnectionClosed as end:
        return messages, end.rcvd.code


def test_a_live_session_runs_through_the_front_and_can_go_on_when_its_replica_dies(server):
    url = f"ws{server.url.removeprefix('http')}/v1/video/realtime"
    with connect(url, max_size=None) as socket:
        assert json.loads(socket.recv(timeout=PATIENCE))["type"] == "session.created"
        socket.send(json.dumps({"type": "session.configure", "prompt": "Tell what you see."}))
        while (ready := json.loads(socket.recv(timeout=PATIENCE)))["type"] != "session.ready":
            pass
        announced = {"type": "input.frame", "seq_no": 0, "timestamp": 0.0, "mime_type": "image/jpeg"}
        socket.send(json.dumps(announced | {"prompt": "What now?"}))
        while json.loads(socket.recv(timeout=PATIENCE))["type"] != "input.frame.ready":
            pass
        socket.send(frame())
        (replica,) = [number for number, count in gauge(server, "sessions_open").items() if count]
        kill(server, replica)
        messages, code = told(socket)
    done = messages[-1]
    assert (code, done["type"], done["reason"]) == (1012, "session.done", "error")
    assert done["session_id"] == ready["session_id"]
    assert [one["content"] for one in done["prefill_messages"] if one["role"] == "user"] == [
        "Tell what you see.",
        "What now?",
    ]
    both_ready(server)
    with connect(url, max_size=None) as socket:
        configured = {"type": "session.configure", "prefill_messages": done["prefill_messages"]}
        socket.send(json.dumps(configured))
        while json.loads(socket.recv(timeout=PATIENCE))["type"] != "session.ready":
            pass
    both_ready(server)


def test_a_rolling_restart_replaces_both_processes(server):
    before = [process_of(server, replica) for replica in (0, 1)]
    server.process.send_signal(signal.SIGHUP)
    while "all replicas were restarted" not in server.log:
        answer = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4},
            timeout=PATIENCE,
        )
        assert answer.status_code == 200, answer.text
    assert not any(map(alive, before))
    both_ready(server)


def test_a_stop_leaves_no_process_and_no_file():
    with serving("-dp", "2", "--device", "cpu", "--decoders", "1") as server:
        both_ready(server)
        environment = Path(f"/proc/{server.process.pid}/environ").read_bytes()
        folder = re.search(rb"TMPDIR=([^\0]+)", environment)[1].decode()
        left = [process_of(server, replica) for replica in (0, 1)]
        assert server.stop() == 0, server.log
        assert not any(map(alive, left)) and not [name for name in os.listdir(folder) if name.startswith("mossvl")]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["-dp", "0"], "--data-parallel-size"),
        (["-dp", "99", "--device", "cuda"], "--data-parallel-size 99 needs 99 GPUs, 1 for each replica"),
    ],
)
def test_a_number_of_replicas_that_cannot_be_is_one_line(flags, told):
    refused = CliRunner().invoke(commands, ["serve", *flags])
    assert refused.exit_code == 2 and told in refused.stderr
