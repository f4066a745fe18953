"""Downloads from a model hub of this machine: what is said of them, and of what fails."""

import json
import logging
import re
import shutil
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from mossvl.checkpoints.hub import download
from mossvl.errors import CheckpointError

COMMIT = "c" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"w" * 60_000_000}
LISTED = [
    {"type": "file", "path": name, "size": len(content), "oid": f"{number:040x}"}
    for number, (name, content) in enumerate(FILES.items())
]
DOORS = {"nobody/none": (404, "RepoNotFound"), "some/gated": (403, "GatedRepo")}


class Hub(BaseHTTPRequestHandler):
    """Has one repository, some/one, with a branch main."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].removeprefix("/api/models").strip("/")
        name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
        if name in DOORS:
            self.answer(b"", *DOORS[name])
        elif rest[0] == "revision" and rest[1] != "main":
            self.answer(b"", 404, "RevisionNotFound")
        elif rest[0] == "revision":
            self.answer(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        elif rest[0] == "tree":
            self.answer(json.dumps(LISTED).encode())
        else:
            self.answer(FILES[rest[-1]])

    def answer(self, content, status=200, code=None):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("content-type", "application/json")
        self.send_header("etag", f'"{len(content)}"')
        self.send_header("x-repo-commit", COMMIT)
        if code:
            self.send_header("x-error-code", code)
        self.end_headers()
        if self.command == "GET":
            half = len(content) // 2
            self.wfile.write(content[:half])
            if len(content) > 10**6:
                self.server.second_half.wait(60)
            self.wfile.write(content[half:])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.second_half = threading.Event()
        server.second_half.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield server
        server.shutdown()


def test_the_size_and_the_folder_of_a_download_are_told_once(hub, caplog, tmp_path):
    folder = download("some/one", None, ["*.json", "*.safetensors"])
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert caplog.messages == [f"some/one: 0.1 GB are downloaded to {tmp_path / 'cache'}, once"]
    caplog.clear()
    assert download("some/one", None, ["*.json", "*.safetensors"]) == folder
    assert caplog.messages == []


def test_without_a_terminal_lines_tell_how_much_of_a_download_has_come(hub, monkeypatch):
    class Reader(logging.Handler):
        def emit(self, record):
            told = re.fullmatch(r"some/one: 0\.0 of 0\.1 GB \((\d+) %\)", record.getMessage())
            if told is not None and 0 < int(told[1]) <= 50:
                hub.second_half.set()

    monkeypatch.setattr("mossvl.checkpoints.hub.SECONDS", 0.01)
    hub.second_half.clear()
    logger = logging.getLogger("mossvl.checkpoints.hub")
    logger.addHandler(reader := Reader())
    try:
        download("some/one", None, ["*.json", "*.safetensors"])
    finally:
        logger.removeHandler(reader)
    assert hub.second_half.is_set()


def test_what_the_disk_has_no_room_for_is_not_begun(hub, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10**7, 10**7)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"0\.1 GB are to be downloaded to .*, where 0\.0 GB are free; .*HF_HOME"):
        download("some/one", None, ["*.safetensors"])
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("nobody/none", None, "nobody/none: the model hub has no such repository; check the name"),
        ("some/gated", None, "some/gated: its owner gives it to those who ask.*hf auth login"),
        ("some/one", "v9", "some/one@v9: some/one has no such revision; name a branch, a tag or a commit of it"),
    ],
)
def test_what_the_hub_does_not_give_is_told_with_what_to_do(hub, name, revision, message):
    with pytest.raises(CheckpointError, match=message):
        download(name, revision, ["*"])


def test_without_a_connection_the_message_says_so(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CheckpointError, match=r"some/one: the model hub cannot be reached \(.*refused.*\); check the"):
        download("some/one", None, ["*"])


def test_offline_the_message_names_the_variable(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"some/one: not in the cache \(.*\), and HF_HUB_OFFLINE is set"):
        download("some/one", None, ["*"])
