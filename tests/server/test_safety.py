"""What a server does not do, for whom, and what it says then."""

import base64
import json
import random
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from running import PATIENCE, serving, waited

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP = f"data:video/mp4;base64,{base64.b64encode((EXAMPLES / 'clip.mp4').read_bytes()).decode()}"
KEY = "a-secret-key"


def asking(url, kind="video_url", question="When does the blue star appear?"):
    part = {"type": kind, kind: {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": question}]}]}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder that may be read, with links out of it, and a file beside it."""
    root = tmp_path_factory.mktemp("media")
    allowed = root / "allowed"
    allowed.mkdir()
    clip = (EXAMPLES / "clip.mp4").read_bytes()
    (allowed / "clip.mp4").write_bytes(clip)
    (root / "secret.mp4").write_bytes(clip)
    (allowed / "link.mp4").symlink_to(root / "secret.mp4")
    (allowed / "folder").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def guarded(media):
    """A server with a key, a folder, and small limits."""
    flags = [
        "--allow-media-dir", str(media / "allowed"), "--max-body", "200000", "--max-download", "300000",
        "--max-duration", "8", "--max-image-pixels", "2000000", "--stall-timeout", "2", "--media-timeout", "20",
    ]  # fmt: skip
    with serving(*flags, MOSSVL_API_KEY=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def client(guarded):
    with httpx.Client(base_url=guarded.url, headers={"authorization": f"Bearer {KEY}"}, timeout=PATIENCE) as client:
        yield client


def refused(response, status, words):
    error = response.json()["error"]
    assert response.status_code == status, error
    assert words in error["message"]
    assert set(error) == {"message", "type", "code", "param"}
    return error


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer é"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/files", "/metrics", "/v1/nothing"])
def test_nothing_is_told_without_the_key(guarded, path, given):
    headers = {} if given is None else {"authorization": given.encode()}
    response = httpx.get(f"{guarded.url}{path}", headers=headers)
    assert refused(response, 401, "API key")["code"] == "invalid_api_key"


def test_with_the_key_and_for_what_is_no_secret_without_it_there_are_answers(guarded, client):
    assert client.get("/v1/models").json()["data"][0]["id"] == "mossvl-tiny"
    for path in ("/health", "/ready", "/version", "/"):
        assert httpx.get(f"{guarded.url}{path}").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "{url}"}, 200),
        ({"origin": "https://example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"host": "["}, 403),
        ({"host": "rebound.example.org"}, 403),
        ({"host": "localhost:1"}, 200),
    ],
)
def test_without_a_key_no_other_site_can_use_the_server_of_a_visitor(server, headers, status):
    headers = {name: value.format(url=server.url) for name, value in headers.items()}
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status


def test_pages_of_sites_that_are_named_may_ask():
    here, elsewhere = {"origin": "https://example.org"}, {"origin": "https://example.com"}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    with serving("--allow-origin", here["origin"]) as running:
        url = f"{running.url}/v1/models"
        answer, refusal = httpx.get(url, headers=here), httpx.get(url, headers=elsewhere)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == here["origin"]
        assert refusal.status_code == 403 and "access-control-allow-origin" not in refusal.headers
        assert httpx.options(url, headers=here | asks).status_code == 200
        assert httpx.options(url, headers=elsewhere | asks).status_code == 400
        local = {"access-control-request-private-network": "true"}
        preflight = httpx.options(url, headers=here | asks | local)
        assert preflight.status_code == 200 and preflight.headers["access-control-allow-private-network"] == "true"
        assert httpx.get(url, headers=here | {"host": "rebound.example.org"}).status_code == 403


def test_pages_of_all_sites_may_ask_a_server_with_a_key_and_read_what_it_refuses(keyed):
    response = httpx.get(f"{keyed.url}/v1/models", headers={"origin": "https://example.org"})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (401, "*")


def test_a_key_may_be_of_any_characters(keyed):
    headers = {"authorization": "Bearer schlüssel".encode()}
    assert httpx.get(f"{keyed.url}/v1/models", headers=headers).status_code == 200
    refusal = httpx.get(f"{keyed.url}/v1/models")
    assert (refusal.headers["www-authenticate"], refusal.headers["connection"]) == ("Bearer", "close")


# --- where media come from -------------------------------------------------------------------------------------------


@pytest.fixture
def canary():
    """A server that nobody must ask; how often it was."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"],
)
def test_this_machine_is_not_asked_whatever_it_is_called(client, canary, host):
    port, asked = canary
    for kind in ("image_url", "video_url"):
        response = client.post("/v1/chat/completions", json=asking(f"http://{host}:{port}/a.png", kind))
        refused(response, 400, "")
    assert asked == []


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://[fd00::1]/a"])
def test_private_addresses_are_not_asked(client, url):
    refused(client.post("/v1/chat/completions", json=asking(url)), 400, "")


@pytest.mark.parametrize(
    "url", ["gopher://example.org/", "ftp://example.org/a.mp4", "/etc/passwd", "clip.mp4", "upload"]
)
def test_what_is_no_known_url_is_refused_before_anything_is_done(client, url):
    refused(client.post("/v1/chat/completions", json=asking(url)), 400, "no URL of a known scheme")


def test_a_file_in_the_allowed_folder_is_read(client, media):
    answer = client.post("/v1/chat/completions", json=asking(f"file://{media}/allowed/clip.mp4")).json()
    assert answer["choices"][0]["message"]["content"] == "2.0 seconds"


@pytest.mark.parametrize(
    "path",
    [
        "secret.mp4",
        "allowed/../secret.mp4",
        "allowed/link.mp4",
        "allowed/folder/secret.mp4",
        "allowed/%2e%2e/secret.mp4",
        "none.mp4",
    ],
)
def test_files_elsewhere_are_refused_and_not_even_said_to_exist(client, media, path):
    reasons = set()
    for one in (path, "none.mp4"):
        response = client.post("/v1/chat/completions", json=asking(f"file://{media}/{one}"))
        reasons.add(refused(response, 400, "")["message"].rpartition(".mp4: ")[2])
    assert len(reasons) == 1


def test_without_a_folder_no_file_is_read(server):
    response = httpx.post(f"{server.url}/v1/chat/completions", json=asking(f"file://{EXAMPLES}/clip.mp4"))
    refused(response, 400, "")


# --- how much --------------------------------------------------------------------------------------------------------


def test_a_body_beyond_the_limit_is_refused_with_and_without_its_length(client, guarded):
    body = json.dumps(asking("data:," + "A" * 300_000)).encode()
    refused(client.post("/v1/chat/completions", content=body), 413, "--max-body")
    pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    try:
        response = client.post("/v1/chat/completions", content=pieces)
    except httpx.WriteError:
        return  # The server has closed the connection before all was sent.
    refused(response, 413, "--max-body")


def test_an_upload_beyond_the_limit_is_refused(client):
    for size in (300_001, 2_000_000):
        refused(client.post("/v1/files", files={"file": ("a.mp4", b"x" * size)}), 413, "--max-download")


def test_a_video_that_is_too_long_and_a_picture_that_is_too_large_are_refused(client, tmp_path):
    from PIL import Image

    data_url = f"data:image/png;base64,{base64.b64encode((EXAMPLES / 'sign.png').read_bytes()).decode()}"
    path = tmp_path / "large.png"
    Image.new("RGB", (2000, 1001)).save(path)
    number = client.post("/v1/files", files={"file": ("large.png", path.read_bytes())}).json()["id"]
    response = client.post("/v1/chat/completions", json=asking(f"upload:{number}", "image_url"))
    assert refused(response, 400, "--max-image-pixels")["code"] == "invalid_media"
    frames = [{"timestamp": time, "url": data_url} for time in (0, 9)]
    part = {"type": "video_frames", "video_frames": {"frames": frames}}
    response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]})
    assert refused(response, 400, "--max-duration")["code"] == "invalid_media"


def test_a_client_that_sends_nothing_more_is_given_up(guarded):
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        assert b" 408 " in connection.recv(4096)


def test_a_client_that_goes_away_while_it_sends_is_no_failure(guarded):
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}content-length: 1000\r\n\r\n{{".encode())
    waited(lambda: re.search("POST /v1/chat/completions 499", guarded.log), guarded)
    assert "Traceback" not in guarded.log


# --- broken media ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"not a video", random.Random(0).randbytes(1000), (EXAMPLES / "clip.mp4").read_bytes()[:3000]],
    ids=["nothing", "text", "noise", "a clip's start"],
)
def test_broken_media_cost_their_request_only(client, content):
    url = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    response = client.post("/v1/chat/completions", json=asking(url))
    assert refused(response, 400, "")["code"] == "invalid_media"
    answer = client.post("/v1/chat/completions", json=asking(CLIP)).json()
    assert answer["choices"][0]["message"]["content"] == "2.0 seconds"


# --- what is told ----------------------------------------------------------------------------------------------------


def test_every_answer_has_a_number_and_a_line_in_the_log_without_what_was_asked(client, guarded):
    body = asking(CLIP, question="When does the blue star appear, my secret friend?")
    response = client.post("/v1/chat/completions", json=body, headers={"x-request-id": "my-number-7"})
    assert response.headers["x-request-id"] == "my-number-7"
    assert len(client.get("/v1/nothing", headers={"x-request-id": "a b\x07"}).headers["x-request-id"]) == 24
    waited(lambda: "my-number-7 127.0.0.1 POST /v1/chat/completions 200" in guarded.log, guarded)
    assert "secret" not in guarded.log and KEY not in guarded.log


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/none", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/models/gpt-9", 404),
        ("GET", "/v1/files/file-0", 404),
    ],
)
def test_what_is_not_there_is_said_in_the_same_form(client, method, path, status):
    refused(client.request(method, path), status, "")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/files/file-0", "DELETE, GET"),
        ("DELETE", "/health", "GET, HEAD"),
        ("POST", "/page/page.css", "GET, HEAD"),
        ("GET", "/v1/messages", "POST"),
    ],
)
def test_a_method_that_a_path_does_not_allow_is_told_with_those_that_it_does(client, method, path, allowed):
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    told = answer.json()
    assert ("type" in told) == (path == "/v1/messages")
    assert told["error"]["code"] == "method_not_allowed"
    assert told["error"]["message"] == f"{method} '{path}': Method Not Allowed; allowed are {allowed}"


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/chat/completions", "did you mean '/v1/chat/completions'?"),
        ("/models", "did you mean '/v1/models'?"),
        ("/v1/v1/messages", "did you mean '/v1/messages'?"),
        ("/v1/embeddings", "/openapi.json has the routes"),
    ],
)
def test_a_path_that_is_none_is_refused_with_the_route_that_is_near(client, path, advice):
    refused(client.post(path, json={}), 404, advice)


@pytest.mark.parametrize("path", ["/", "/live"])
def test_a_page_is_one_document(guarded, path):
    page = httpx.get(f"{guarded.url}{path}")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and page.headers["cache-control"] == "no-cache"
    assert page.text.count('<meta charset="utf-8">') == page.text.count('id="icon-send"') == 1
    assert "<!-- " not in page.text and page.text.endswith("</html>\n")
    head = httpx.head(f"{guarded.url}{path}")
    assert (head.status_code, head.text) == (200 if path == "/" else 405, "")


def test_the_page_allows_nothing_from_elsewhere(guarded):
    policy = httpx.get(guarded.url).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert httpx.get(f"{guarded.url}/page/../app.py").status_code == 404
    assert httpx.get(f"{guarded.url}/page/%2e%2e/app.py").status_code == 404
