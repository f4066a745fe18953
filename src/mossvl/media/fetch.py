"""From a path, a `file:`, `http(s):` or `data:` URL to a file on this machine."""

import base64
import binascii
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import httpx

from mossvl.errors import MediaError
from mossvl.media.limits import MediaLimits, Watch

_URL = re.compile(r"(data:|[A-Za-z][A-Za-z0-9+.-]+://)")
_MAX_REDIRECTS = 5
_STALL_SECONDS = 30.0


def is_remote(source: str | Path) -> bool:
    """Whether `source` must be copied here first: an `http(s):` or a `data:` URL."""
    return isinstance(source, str) and bool(_URL.match(source)) and not source.lower().startswith("file://")


def file_version(source: str | Path) -> tuple[str, int, int, int, int] | None:
    """What changes when the file that `source` names changes; None for what is no file on this machine."""
    if is_remote(source):
        return None
    path = _path(source)
    try:
        status = path.stat()
    except OSError:
        return None
    return os.path.realpath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def source_name(source: str | Path) -> str:
    """A short name for messages; the query of a URL, which may hold a secret, is left out."""
    if not is_remote(source):
        return str(source)
    if str(source).startswith("data:"):
        return "data URL"
    parts = urlsplit(str(source))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def local_file(source: str | Path, limits: MediaLimits) -> Iterator[Path]:
    """The file `source` names; a URL is downloaded to a temporary file, removed when the context ends.

    Raises:
        MediaError: no such file, not a readable file, empty, over `limits.download_bytes`, or a failed download.
        GenerationTimeout: the download took longer than `limits.timeout`.
    """
    if not is_remote(source):
        path = _path(source)
        _check_file(path)
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="mossvl-", suffix=_suffix(str(source))) as file:
        if str(source).startswith("data:"):
            _write_data_url(str(source), file, limits)
        else:
            _download(str(source), file, limits)
        file.flush()
        if file.tell() == 0:
            raise MediaError(f"{source_name(source)}: the body is empty; expected an image or a video")
        yield Path(file.name)


def _path(source: str | Path) -> Path:
    if isinstance(source, str) and source.lower().startswith("file://"):
        parts = urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            raise MediaError(f"{source}: a file URL must name a file of this machine, as file:///path")
        return Path(url2pathname(parts.path))
    return Path(source)


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MediaError(f"{path}: not a regular file; give the path of an image or a video")
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be opened ({error})") from error
    if size == 0:
        raise MediaError(f"{path}: the file is empty; expected an image or a video")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path}: no permission to read it")


def _suffix(url: str) -> str:
    """The file extension of a URL's path: a few raw formats are told apart by nothing else."""
    suffix = "" if url.startswith("data:") else Path(urlsplit(url).path).suffix
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""


def _write_data_url(url: str, file: IO[bytes], limits: MediaLimits) -> None:
    header, comma, payload = url.partition(",")
    if not comma:
        raise MediaError("data URL: no comma before the data; expected data:<type>;base64,<data>")
    # Base64 holds three bytes in four characters; percent encoding never shrinks below its length over three.
    if len(payload) > 4 * limits.download_bytes:
        raise _too_large("data URL", limits)
    data = unquote_to_bytes(payload)
    if header.endswith(";base64"):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise MediaError(f"data URL: not valid base64 ({error})") from error
    if len(data) > limits.download_bytes:
        raise _too_large("data URL", limits)
    file.write(data)


def _download(url: str, file: IO[bytes], limits: MediaLimits) -> None:
    name = source_name(url)
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise MediaError(f"{name}: the scheme is not supported; give a path or an http(s), file or data URL")
    watch = Watch(name, limits.timeout)
    stall = min(_STALL_SECONDS, limits.timeout)
    client = httpx.Client(follow_redirects=True, max_redirects=_MAX_REDIRECTS, timeout=stall)
    try:
        with _hang_up_after(limits.timeout) as trace, client:
            request: dict[str, Any] = {"headers": {"accept-encoding": "identity"}, "extensions": {"trace": trace}}
            with client.stream("GET", url, **request) as response:
                if response.status_code != 200:
                    raise MediaError(f"{name}: the server answered {response.status_code}; check the URL")
                if int(response.headers.get("content-length", 0)) > limits.download_bytes:
                    raise _too_large(name, limits)
                for chunk in response.iter_bytes():
                    watch.check()
                    file.write(chunk)
                    if file.tell() > limits.download_bytes:
                        raise _too_large(name, limits)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        watch.check()
        raise MediaError(f"{name}: the download failed ({error or type(error).__name__})") from error


@contextmanager
def _hang_up_after(seconds: float) -> Iterator[Any]:
    """Shut the request's connection after `seconds`; yields the httpx trace hook that learns of the connection.

    httpx bounds each single read only, so a server that sends one header byte at a time would never run out of time.
    """
    connections: list[socket.socket] = []

    def trace(event: str, info: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            connections[:] = [info["return_value"].get_extra_info("socket")]

    def hang_up() -> None:
        for connection in connections:
            with suppress(OSError):  # Closed already: the download ended in this moment.
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield trace
    finally:
        timer.cancel()


def _too_large(name: str, limits: MediaLimits) -> MediaError:
    return MediaError(f"{name}: larger than {limits.download_bytes} bytes; raise MediaLimits.download_bytes")
