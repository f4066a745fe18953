"""What a client sends cannot look like a line of the log, nor fill it."""

import base64
import io
import logging
import re
import socket

import httpx
import pytest
from PIL import Image
from running import PATIENCE, waited

from mossvl.server.logs import FORMAT, Lines, told


def raw(url, request):
    """Send bytes as they are → the status of the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(request)
        return int(connection.recv(65_536).split()[1])


@pytest.mark.parametrize(
    ("line", "headers", "seen"),
    [
        (b"M" * 60_000 + b" /none HTTP/1.1", b"", r"127\.0\.0\.1 M{200} /none 405|404"),
        (b"GET /none/" + b"a" * 60_000 + b" HTTP/1.1", b"", r"127\.0\.0\.1 GET /none/a{194} 404"),
        (b"GET /none%0a%1b[31m HTTP/1.1", b"", r"GET /none\\n\\x1b\[31m 404"),
        (b"GET /none%20200%E2%80%A8 HTTP/1.1", b"", r"GET /none\\x20200\\u2028 404"),
        (b"GET /none HTTP/1.1", b"x-forwarded-for: " + b"b" * 60_000 + b"\r\n", r" b{200} GET /none 404"),
        (b"GET /none HTTP/1.1", b"x-forwarded-for: 1 GET / 200\r\n", r" 1\\x20GET\\x20/\\x20200 GET /none 404"),
    ],
)
def test_what_a_client_chooses_is_cut_and_escaped(server, line, headers, seen):
    begun = len(server.lines)
    assert raw(server.url, line + b"\r\nhost: localhost\r\n" + headers + b"\r\n") in (404, 405)
    waited(lambda: re.search(seen, "".join(server.lines[begun:])), server)
    assert all(len(one) < 700 and one.rstrip("\n").isprintable() for one in server.lines[begun:])


def test_what_is_told_of_a_request_is_cut(server):
    response = httpx.request("M" * 60_000, f"{server.url}/none/{'a' * 5000}")
    assert len(response.json()["error"]["message"]) < 400
    body = {"messages": [{"role": "user", "content": "a"}], "seed": 10**4000, "top_k": 10**4000}
    assert len(httpx.post(f"{server.url}/v1/chat/completions", json=body).text) < 1500


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/media/frames"])
def test_what_libraries_say_of_broken_media_is_no_line(server, path):
    begun, written = len(server.lines), io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(written, "TIFF", compression="jpeg")
    content = written.getvalue()
    for broken in (content[: len(content) // 2], content.replace(b"\xff\xdb", b"\xff\xfe")):  # DQT becomes a comment.
        url = f"data:image/tiff;base64,{base64.b64encode(broken).decode()}"
        part = {"type": "image_url", "image_url": {"url": url}}
        body = (
            {"messages": [{"role": "user", "content": [part]}]} if "chat" in path else {"part": part, "thumbnails": 9}
        )
        response = httpx.post(f"{server.url}{path}", json=body, timeout=PATIENCE)
        assert response.json()["error"]["code"] == "invalid_media"
    waited(lambda: len(re.findall(f"POST {path} 400", "".join(server.lines[begun:]))) >= 2, server)
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in server.lines[begun:])


def test_a_record_is_a_line_and_a_traceback_cannot_look_like_one():
    forged = "2026-01-01 00:00:00,000 INFO all is well"
    try:
        raise ValueError(f"a\n{forged}\x1b{'b' * 5000}")
    except ValueError as error:
        failure = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("mossvl", logging.ERROR, "a.py", 1, "it says %s", (f"x\r\n{forged}",), failure)
    first, *others = Lines(FORMAT).format(record).splitlines()
    assert first.endswith(f"ERROR it says x\\r\\n{forged}")
    assert all(line.startswith("    ") and len(line) < 1100 and line.isprintable() for line in others)
    assert any(forged in line for line in others)


def test_a_word_is_told_without_spaces():
    assert told("a b\udc80é") == r"a\x20b\udc80é" and len(told("\n" * 1000)) == 200
