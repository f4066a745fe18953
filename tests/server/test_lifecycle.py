"""A server's beginning, its load, and its end."""

import gc
import logging
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from running import PATIENCE, serving, waited

import mossvl
from mossvl.server import interpreter
from mossvl.server.config import ServerConfig
from mossvl.server.run import Server, beside

LONG = {
    "messages": [{"role": "user", "content": "Hello"}],
    "ignore_eos": True,
    "max_completion_tokens": 4000,
    "stream": True,
}
SHORT = {"messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 4}


def test_it_is_alive_before_it_is_ready():
    with serving(ready=False) as running:
        assert httpx.get(f"{running.url}/health").json() == {"status": "alive"}
        response = httpx.post(f"{running.url}/v1/chat/completions", json=SHORT)
        if response.status_code != 200:  # It may have become ready in between.
            assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")
            assert int(response.headers["retry-after"]) > 0
        waited(lambda: httpx.get(f"{running.url}/ready").status_code == 200, running)
        assert httpx.post(f"{running.url}/v1/chat/completions", json=SHORT, timeout=PATIENCE).status_code == 200
        assert running.stop() == 0
        assert "Traceback" not in running.log


def test_a_signal_that_comes_in_the_middle_of_a_line_of_the_log_is_not_lost(caplog, monkeypatch):
    class Busy(logging.Handler):
        def emit(self, record):
            raise RuntimeError("reentrant call")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging.getLogger(), "handlers", [Busy()])
    service = SimpleNamespace(stopping=False)
    server = Server(uvicorn.Config(lambda: None, log_config=None), service)
    server.handle_exit(signal.SIGTERM, None)
    assert service.stopping and server.should_exit


def test_a_checkpoint_that_cannot_be_loaded_ends_it_with_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AssertionError) as failed, serving("-c", str(tmp_path)):
        pass
    log = str(failed.value)
    assert "mossvl: error:" in log and "Traceback" not in log


def test_an_address_that_is_taken_is_said(server):
    port = server.url.rpartition(":")[2]
    with pytest.raises(AssertionError, match="cannot be listened on"), serving("--port", port):
        pass


def test_running_requests_end_before_it_does_and_new_ones_are_refused():
    with serving("--shutdown-timeout", "60") as running, httpx.Client(timeout=PATIENCE) as client:
        with client.stream(
            "POST", f"{running.url}/v1/chat/completions", json=LONG | {"max_completion_tokens": 300}
        ) as response:
            lines = response.iter_lines()
            next(lines)
            codes = []
            stopping = threading.Thread(target=lambda: codes.append(running.stop()))
            stopping.start()
            waited(lambda: "stopping" in running.log, running)
            with pytest.raises(httpx.HTTPError):  # Nobody listens any more; or, if a socket still does, it says so.
                httpx.get(f"{running.url}/ready", timeout=5).raise_for_status()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        stopping.join()
        assert codes == [0]


def test_what_does_not_end_in_time_is_cut_off():
    with (
        serving("--shutdown-timeout", "1") as running,
        httpx.stream("POST", f"{running.url}/v1/chat/completions", json=LONG, timeout=PATIENCE) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        assert running.stop() == 0
        assert '"code": "stopping"' in [line for line in lines if line][-1]


def test_beyond_the_queue_requests_are_told_to_come_again():
    with serving("--max-batch", "2", "--max-queue", "1") as running, httpx.Client(timeout=PATIENCE) as client:
        url = f"{running.url}/v1/chat/completions"
        streams = [client.stream("POST", url, json=LONG) for _ in range(3)]
        opened = []

        def open_(stream):
            with suppress(httpx.HTTPError):
                opened.append(stream.__enter__())

        threads = [threading.Thread(target=open_, args=(stream,)) for stream in streams]
        for number, thread in enumerate(threads, 1):  # One after the other: not even two may wait for their turn.
            thread.start()
            told = f"requests_running {number}.0" if number < 3 else "requests_waiting 1.0"
            waited(lambda told=told: client.get(f"{running.url}/metrics").text.count(told) == 1, running)
        response = client.post(url, json=SHORT)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert int(response.headers["retry-after"]) > 0
        running.process.kill()
        for thread in threads:
            thread.join()


def test_a_request_ends_at_its_own_time_limit(server):
    body = {**LONG, "stream": False, "timeout": 0.2}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**body, "stream": True}, timeout=PATIENCE
    ) as stream:
        last = [line for line in stream.iter_lines() if line][-1]
    assert '"code": "timeout"' in last


def test_what_happens_is_measured(server):
    httpx.post(f"{server.url}/v1/chat/completions", json=SHORT, timeout=PATIENCE)
    httpx.get(f"{server.url}/none")
    waited(lambda: 'tokens_total{kind="new"}' in text_of(server), server)
    text = text_of(server)
    for name in (
        'mossvl_requests_total{path="/v1/chat/completions",status="200"}',
        'mossvl_errors_total{code="not_found"}',
        "mossvl_first_token_seconds_bucket",
        "mossvl_inter_token_seconds_bucket",
        "mossvl_media_seconds_count",
        "mossvl_requests_running",
        "mossvl_requests_waiting",
        "mossvl_pages_free",
    ):
        assert name in text


def text_of(server) -> str:
    return httpx.get(f"{server.url}/metrics").text


def test_the_version_is_told(server):
    import mossvl

    assert httpx.get(f"{server.url}/version").json() == {"version": mossvl.__version__}


def test_uploads_are_named_forgotten_and_gone_with_the_server(tmp_path):
    clip = (Path(__file__).parents[2] / "examples" / "clip.mp4").read_bytes()
    with serving(TMPDIR=str(tmp_path)) as running, httpx.Client(base_url=running.url, timeout=PATIENCE) as client:
        file = client.post("/v1/files", files={"file": ("clip.mp4", clip)}).json()
        assert (file["bytes"], file["filename"]) == (len(clip), "clip.mp4")
        assert client.get(f"/v1/files/{file['id']}").json()["id"] == file["id"]
        assert client.delete(f"/v1/files/{file['id']}").json()["deleted"]
        assert client.get(f"/v1/files/{file['id']}").status_code == 404
        client.post("/v1/files", files={"file": ("clip.mp4", clip)})
        assert len(list(tmp_path.glob("mossvl-uploads-*/*"))) == 1
        assert running.stop() == 0
    assert not list(tmp_path.glob("mossvl-*"))


def test_python_is_set_back_after_the_last_server_of_a_process(golden):
    def now():
        return sys.getswitchinterval(), gc.get_freeze_count() > 1000  # Python 3.12 counts some of its own

    before = now()
    with mossvl.MossVL(golden / "checkpoint", device="cpu", dtype="float32", memory=1 << 24) as llm:
        with interpreter.serving():
            with beside(ServerConfig(port=0, decoders=1), llm, "golden"):
                assert now() == (interpreter.SWITCH_SECONDS, True)
            assert now() == (interpreter.SWITCH_SECONDS, True)
        assert now() == before == (before[0], False)
