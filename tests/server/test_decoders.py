"""Requests and previews have decoder processes of their own."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from running import PATIENCE, serving, waited

BLANK = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAFElEQVR42mP8zwABTAyjjFEGyQwAzx8B"
    "f7QK4E8AAAAASUVORK5CYII="
)


@pytest.fixture
def stalled():
    """The URL of a picture whose server keeps its client waiting, and then leaves."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            over.wait(PATIENCE)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.png"
    over.set()
    server.shutdown()
    server.server_close()


def test_a_preview_does_not_wait_for_the_media_of_requests(stalled):
    part = {"type": "image_url", "image_url": {"url": stalled}}
    asking = {"messages": [{"role": "user", "content": [part]}]}
    flags = ["--decoders", "1", "--allow-private-media", "--shutdown-timeout", "1"]
    with serving(*flags) as running, ThreadPoolExecutor(4) as pool:
        sent = [
            pool.submit(httpx.post, f"{running.url}/v1/chat/completions", json=asking, timeout=PATIENCE)
            for _ in range(4)
        ]
        waited(
            lambda: re.search(r"^mossvl_requests_waiting 4", httpx.get(f"{running.url}/metrics").text, re.M), running
        )
        preview = {"part": {"type": "image_url", "image_url": {"url": BLANK}}}
        seen = httpx.post(f"{running.url}/v1/media/frames", json=preview, timeout=PATIENCE)
        assert seen.status_code == 200 and len(seen.json()["frames"]) == 1
        assert not any(one.done() for one in sent)
        running.stop()
