"""The front, over replicas that answer from memory: routing, bounds, deaths, restarts, and what clients see of them."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from replicas.asking import CHAT, CLIENT, RESPONSES, ask, conversation, ready, streamed, who
from replicas.fronting import fronting
from replicas.stand_ins import PATIENCE, waited


@pytest.fixture(scope="module")
def front():
    with fronting(3, max_body=1 << 20) as one:
        ready(one, 3)
        yield one


# --- bytes in both directions ----------------------------------------------------------------------------------------


def test_an_answer_and_a_stream_come_through_whole(front):
    assert ask(front, "one two three").json()["text"] == "one two three"
    lines = streamed(front, "one two three")
    words = [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines if line.startswith("data: {")]
    assert words == ["one", "two", "three"] and lines[-1] == "data: [DONE]"


def test_a_clients_request_id_passes_through_and_others_get_one(front):
    given = {"x-request-id": "mine-1"}
    response = CLIENT.post(f"{front.url}{CHAT}", json=conversation("hello"), headers=given)
    assert response.json()["id"] == "mine-1"
    assert len(ask(front, "hello").json()["id"]) == 24


def test_headers_about_one_connection_do_not_pass_and_the_clients_address_does(front):
    told = who(front, headers={"x-forwarded-for": "", "te": "trailers", "connection": "te", "x-kept": "1"})["headers"]
    assert told["x-kept"] == "1" and told["x-forwarded-for"] == "127.0.0.1" and "te" not in told


def test_many_requests_follow_each_other_on_one_connection(front):
    with httpx.Client() as client:
        for number in range(20):
            given = conversation(f"word {number}", stream=bool(number % 2))
            assert f"{number}" in client.post(f"{front.url}{CHAT}", json=given).text
        assert client.get(f"{front.url}/ready").json() == {"status": "ready"}


def raw(front, data, more=b""):
    """All that the front answers to these bytes."""
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(data)
        if more:
            time.sleep(0.05)
            connection.sendall(more)
        connection.shutdown(socket.SHUT_WR) if not more else None
        found = b""
        while piece := connection.recv(1 << 16):
            found += piece
        return found


def test_requests_that_come_at_once_are_answered_in_order(front):
    one = b"GET /who?1 HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    found = raw(front, one + one + last[:10], last[10:])
    assert found.count(b"HTTP/1.1 200") == 3 and found.endswith(b'{"status":"ready"}')


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(front):
    body = json.dumps(conversation("one two", stream=True)).encode()
    head = b"POST %b HTTP/1.0\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body))
    found = raw(front, head + body[:5], body[5:])
    assert found.endswith(b"data: [DONE]\n\n") and b"chunked" not in found


def test_a_body_in_chunks_comes_through(front):
    body = json.dumps(conversation("a b c")).encode()
    response = CLIENT.post(f"{front.url}{CHAT}", content=iter([body[:7], body[7:]]))
    assert response.json()["text"] == "a b c"


def test_an_upload_passes_as_it_comes_whatever_its_framing(front):
    data = os.urandom(3 << 20)
    for content in (data, iter([data[: 1 << 20], data[1 << 20 :]])):
        told = CLIENT.post(f"{front.url}/v1/files", content=content).json()
        assert told["bytes"] == len(data)


def test_a_head_request_has_no_body(front):
    response = CLIENT.head(f"{front.url}/ready")
    assert response.status_code == 200 and response.content == b""


@pytest.mark.parametrize(
    "given",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET /" + b"a" * 70_000,
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["no request", "no host", "two lengths", "a long head", "an unknown framing", "two framings"],
)
def test_what_is_no_request_is_refused_and_reaches_no_replica(front, given):
    found = raw(front, given, b" ")
    assert found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 501")) and b"invalid_request" in found


def test_a_body_over_the_limit_is_refused_before_it_has_come(front):
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), 2 << 20)
    found = raw(front, head, b"{")
    assert found.startswith(b"HTTP/1.1 413") and b"--max-body" in found


def test_a_body_in_chunks_over_the_limit_is_refused(front):
    response = CLIENT.post(f"{front.url}{CHAT}", content=iter([b" " * (1 << 19)] * 3))
    assert response.status_code == 413


def test_a_foreign_site_is_refused_as_by_one_server(front):
    response = CLIENT.get(f"{front.url}/who", headers={"origin": "http://evil.example"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_site")


def test_a_slow_reader_holds_up_its_replica(front):
    count = 64 << 20
    with CLIENT.stream("GET", f"{front.url}/flood", headers={"x-bytes": str(count)}) as response:
        pieces = response.iter_raw(1 << 16)
        got = len(next(pieces))
        file = front.folder / "sent"
        waited(file.exists)
        before = -1
        while before != (sent := int(file.read_text() or 0)):
            before = sent
            time.sleep(0.3)
        assert sent < count // 2
        assert got + sum(map(len, pieces)) == count


def test_a_client_that_leaves_cancels_its_request(front):
    with CLIENT.stream("POST", f"{front.url}{CHAT}", json=conversation("w " * 500, stream=True, seed=20)) as response:
        next(response.iter_raw())
    waited(lambda: who(front)["cancelled"])


# --- routing ---------------------------------------------------------------------------------------------------------


def test_follow_ups_and_the_same_medium_go_where_the_first_went(front):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
    for number in range(4):
        first = {"role": "user", "content": f"a conversation {number}"}
        second = [first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then?"}]
        homes = {
            CLIENT.post(f"{front.url}{CHAT}", json={"messages": messages}).json()["replica"]
            for messages in ([first], second, second)
        }
        assert len(homes) == 1
    with_image = [[{"role": "user", "content": [image, {"type": "text", "text": f"{n}"}]}] for n in range(5)]
    assert len({CLIENT.post(f"{front.url}{CHAT}", json={"messages": one}).json()["replica"] for one in with_image}) == 1


def test_different_conversations_are_spread_over_all_replicas(front):
    assert {ask(front, f"question {number}").json()["replica"] for number in range(30)} == {0, 1, 2}


def test_a_continued_response_goes_to_the_replica_that_made_it(front):
    for replica in (0, 1, 2, 1):
        given = {"input": "and?", "previous_response_id": f"resp_{'ab' * 24}r{replica}"}
        assert CLIENT.post(f"{front.url}{RESPONSES}", json=given).json()["replica"] == replica


def test_more_than_the_queue_holds_is_overloaded_and_one_full_home_overflows():
    with fronting(2, full=2, max_queue=1) as front, ThreadPoolExecutor(8) as pool:
        ready(front, 2)
        asking = [pool.submit(ask, front, "the same", seed=1500) for _ in range(8)]
        answers = [one.result() for one in asking]
        answered = [one.json()["replica"] for one in answers if one.status_code == 200]
        refused = [one for one in answers if one.status_code == 503]
        assert len(answered) == 5 and set(answered) == {0, 1}
        assert {one.json()["error"]["code"] for one in refused} == {"overloaded"}
        assert all("retry-after" in one.headers for one in refused)


def test_the_front_itself_loads_neither_pytorch_nor_transformers():
    code = "import sys, mossvl.server.front.run; print({'torch', 'transformers'} & set(sys.modules))"
    quick = os.environ | {"MOSSVL_UNREGISTERED": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quick, check=True)
    assert run.stdout.strip() == "set()"


# --- one page of metrics ---------------------------------------------------------------------------------------------


def test_metrics_are_one_page_with_the_replica_as_a_label(front):
    page = CLIENT.get(f"{front.url}/metrics").text
    for replica in (0, 1, 2):
        assert f'mossvl_stand_in_total{{replica="{replica}"}} 2.0' in page
        assert f'mossvl_front_replica_ready{{replica="{replica}"}} 1.0' in page
    assert page.count("# TYPE mossvl_stand_in_total counter") == 1


def test_keys_protect_metrics_and_requests():
    with fronting(1, api_keys=["secret"]) as front:
        ready(front, 1)
        good = {"authorization": "Bearer secret"}
        for path in ("/metrics", "/v1/models"):
            assert CLIENT.get(f"{front.url}{path}").status_code == 401
            assert CLIENT.get(f"{front.url}{path}", headers=good).status_code == 200


def test_what_measures_the_front_finds_every_token_of_its_streams():
    script = Path(__file__).parents[2] / "benchmarks/front.py"
    few = ["--streams", "2", "--tokens", "3", "--step", "0.01", "--requests", "2", "--rounds", "1"]
    done = subprocess.run([sys.executable, script, *few], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "through the front" in done.stdout and "processor time for one event" in done.stdout
