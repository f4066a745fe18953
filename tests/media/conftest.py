"""A web server on this machine that behaves well or badly, clips made when asked for, and a look at open files."""

import gzip
import os
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from .clips import KINDS, Made, plain_decode, write_clip

MEDIA = Path(__file__).parent.parent / "golden" / "media"


class Handler(BaseHTTPRequestHandler):
    """Golden media under their names; every other path is a way to go wrong."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, self.query = self.path.strip("/").partition("?")
        try:
            getattr(self, "_" + path.replace("-", "_"), self._media)()
        except OSError:
            self.close_connection = True  # The client hung up, as some tests mean it to.

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Length": str(len(body))} | headers).items():
            self.send_header(name.replace("Length", "Content-Length"), value)
        self.end_headers()
        self.wfile.write(body)

    def _media(self) -> None:
        path = MEDIA / self.path.strip("/").split("?")[0]
        self._send(200, path.read_bytes()) if path.is_file() else self._send(404)

    def _once(self) -> None:
        self._send(302, Location="/small.png")

    def _loop(self) -> None:
        self._send(302, Location="/loop")

    def _to(self) -> None:
        self._send(302, Location=self.query)

    def _hops(self) -> None:
        self._send(302, Location=f"/hops?{int(self.query) - 1}" if self.query != "1" else "/small.png")

    def _large_hop(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/small.png")
        self._endless()

    def _host(self) -> None:
        self._send(200, self.headers["Host"].encode())

    def _agent(self) -> None:
        self._send(200, self.headers["User-Agent"].encode())

    def _empty(self) -> None:
        self._send(200)

    def _says_large(self) -> None:
        self._send(200, Length=str(10**12))

    def _is_large(self) -> None:
        self.send_response(200)
        self._endless()

    def _endless(self) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    def _zipped(self) -> None:
        self._send(200, gzip.compress((MEDIA / "small.png").read_bytes()), **{"Content-Encoding": "gzip"})

    def _zip_cut(self) -> None:
        self._send(200, gzip.compress(bytes(1000))[:-9], **{"Content-Encoding": "gzip"})

    def _zip_large(self) -> None:
        self._send(200, gzip.compress(bytes(1 << 25)), **{"Content-Encoding": "gzip"})

    def _zip_twice(self) -> None:
        self._send(200, gzip.compress(gzip.compress(bytes(1 << 25))), **{"Content-Encoding": "gzip, gzip"})

    def _zip_broken(self) -> None:
        self._send(200, b"no gzip", **{"Content-Encoding": "gzip"})

    def _cut(self) -> None:
        self._send(200, b"only this", Length="1000")
        self.close_connection = True

    def _slow_body(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self._drip()

    def _slow_header(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self._drip()

    def _drip(self) -> None:
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that is there for one test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = Thread(target=lambda: web.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A clip of KINDS and all its frames, made when first asked for."""
    folder = tmp_path_factory.mktemp("clips")
    clips: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in clips:
            path = write_clip(folder / name, **KINDS[name])
            clips[name] = Made(path, plain_decode(path))
        return clips[name]

    return make


@pytest.fixture
def open_files() -> Callable[[Path], list[str]]:
    """Which files in a folder this process holds open."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc to look into")

    def files(folder: Path) -> list[str]:
        names = []
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                names.append(os.readlink(descriptor))
            except FileNotFoundError:  # The one that lists them.
                continue
        return [name for name in names if name.startswith(str(folder))]

    return files
