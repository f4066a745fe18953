"""Turn a path or a `file:`, `http(s):` or `data:` URL into a local file."""

import os
import re
import socket
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

import httpx

from mossvl.disk import room_for_temporary_files
from mossvl.errors import MediaError
from mossvl.media.addresses import PublicTransport, host_name
from mossvl.media.data_url import is_data_url, read_data_url
from mossvl.media.limits import Cancel, MediaLimits, SourcePolicy, Watch
from mossvl.version import __version__

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
LONGEST_NAME = 300
_STALL_SECONDS = 30.0
_CANCEL_SECONDS = 0.1
"""How often a download looks whether it is cancelled, while nothing comes."""
_CHUNK_BYTES = 1 << 16
_WEB_PORTS = (80, 443)  # Other services below 1024 (mail, FTP) may take an HTTP request for commands.


def is_remote(source: str | Path) -> bool:
    """Whether `source` must be downloaded or decoded first: an `http(s):` or a `data:` URL."""
    if not isinstance(source, str):
        return False
    return is_data_url(source) or (bool(_URL.match(source)) and not source.lower().startswith("file://"))


def file_version(source: str | Path) -> tuple[str, int, int, int, int] | None:
    """Return a key that changes whenever the file does; None if `source` is not a local file."""
    if is_remote(source):
        return None
    try:
        path = _path(source)
        status = path.stat()
    except (OSError, ValueError):
        return None
    return os.path.realpath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def source_name(source: str | Path) -> str:
    """Return a name for messages, at most LONGEST_NAME characters; without a URL's query, which may hold a secret."""
    return _name(source)[:LONGEST_NAME]


def _name(source: str | Path) -> str:
    if not is_remote(source):
        return str(source)
    if is_data_url(str(source)):
        return "data URL"
    parts = _parts(str(source))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else "malformed URL"


@contextmanager
def local_file(source: str | Path, limits: MediaLimits, cancel: Cancel | None = None) -> Iterator[Path]:
    """Yield the path of a local file; a URL is downloaded to a temporary file, removed when the context ends.

    Args:
        cancel: ends the download.

    Raises:
        GenerationCancelled: `cancel` was set.
        MediaError: the file is missing, empty or not readable, the download failed or is larger than
            `limits.download_bytes`, or `limits.sources` forbids the source.
        GenerationTimeout: the download took longer than `limits.timeout`.
        ResourceError: the disk for temporary files is full.
    """
    if not is_remote(source):
        path = _path(source)
        file_path = _allowed(path, limits.sources)
        _check_file(file_path, path)
        yield file_path
        return
    with (
        room_for_temporary_files(),
        tempfile.NamedTemporaryFile(prefix="mossvl-", suffix=_suffix(str(source))) as file,
    ):
        if is_data_url(str(source)):
            file.write(read_data_url(str(source), limits.download_bytes))
        else:
            _download(str(source), file, limits, cancel)
        file.flush()
        if file.tell() == 0:
            raise MediaError(f"{source_name(source)}: the body is empty; expected an image or a video")
        yield Path(file.name)


def _path(source: str | Path) -> Path:
    if isinstance(source, str) and source.lower().startswith("file://"):
        parts = _parts(source)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise MediaError(f"{source}: a file URL must name a file of this machine, as file:///path")
        return Path(url2pathname(parts.path))
    return Path(source)


def _allowed(path: Path, policy: SourcePolicy) -> Path:
    """Check `path` against the policy; symlinks are resolved first. The message does not reveal if the file exists."""
    if policy.directories is None:
        return path
    with suppress(ValueError):  # Raised for an invalid path, as with a null byte.
        resolved = Path(os.path.realpath(path))
        if any(resolved.is_relative_to(os.path.realpath(directory)) for directory in policy.directories):
            return resolved
    instead = "a file from an allowed directory" if policy.directories else "a URL"
    raise MediaError(f"{path}: not a file that may be read here; give {instead}")


def _check_file(path: Path, name: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{name} is a folder; give the path of an image or a video")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{name}: not a regular file; give the path of an image or a video")
    if status.st_size == 0:
        raise MediaError(f"{name}: the file is empty; expected an image or a video")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{name}: no permission to read it")


def _parts(url: str) -> SplitResult:
    """Split a URL; a malformed URL gives empty parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _suffix(url: str) -> str:
    """Return the file extension of a URL's path: FFmpeg detects a few raw formats by nothing else."""
    suffix = "" if is_data_url(url) else Path(_parts(url).path).suffix
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""


def _download(url: str, file: IO[bytes], limits: MediaLimits, cancel: Cancel | None) -> None:
    name = source_name(url)
    watch = Watch(name, limits.timeout, cancel)
    try:
        with _client(name, limits) as client, _hang_up(watch) as trace:
            headers = {"accept-encoding": "identity", "user-agent": f"mossvl/{__version__}"}
            request = client.build_request("GET", url, headers=headers, extensions={"trace": trace})
            with _answer(client, request, name, limits) as response:
                if response.status_code != 200:
                    raise MediaError(f"{name}: the server answered {response.status_code}; check the URL")
                if int(response.headers.get("content-length", 0)) > limits.download_bytes:
                    raise _too_large(name, limits)
                for chunk in _body(response, name):
                    watch.check()
                    file.write(chunk)
                    if file.tell() > limits.download_bytes:
                        raise _too_large(name, limits)
                watch.check()  # A body without a length seems to end where the connection was shut down.
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, zlib.error) as error:
        if isinstance(error, MediaError):
            raise
        watch.check()
        raise MediaError(f"{name}: the download failed ({error or type(error).__name__})") from error


def _client(name: str, limits: MediaLimits) -> httpx.Client:
    stall = min(_STALL_SECONDS, limits.timeout)
    if limits.sources.public_only:
        return httpx.Client(transport=PublicTransport(name, stall), trust_env=False, timeout=stall)
    return httpx.Client(timeout=stall)


@contextmanager
def _answer(client: httpx.Client, request: httpx.Request, name: str, limits: MediaLimits) -> Iterator[httpx.Response]:
    """Follow redirects, checking each URL; yield the final response, its body unread.

    httpx's own following would read the body of every redirect, of any size, into memory.
    """
    hop = name
    for _ in range(limits.redirects + 1):
        _check_url(request.url, hop, limits.sources)
        with closing(client.send(request, stream=True)) as response:
            if response.next_request is None:
                yield response
                return
        request = response.next_request
        hop = f"{name}, redirected to {source_name(str(request.url))}"
    raise MediaError(
        f"{name}: more than {limits.redirects} redirects",
        setting="MediaLimits.redirects",
        advice="; check the URL or raise {}",
    )


def _check_url(url: httpx.URL, name: str, policy: SourcePolicy) -> None:
    """Raise MediaError if `policy` forbids the URL."""
    if url.scheme not in ("http", "https"):
        raise MediaError(f"{name}: the scheme is not supported; give a path or an http(s), file or data URL")
    host = host_name(url.raw_host.decode("ascii"))
    if policy.domains and not any(f".{host}".endswith(f".{host_name(domain)}") for domain in policy.domains):
        raise MediaError(f"{name}: not a host that may be asked; give a URL of {' or '.join(policy.domains)}")
    if policy.public_only and url.userinfo:
        raise MediaError(f"{name}: has a user or password in it; give a URL that needs none")
    if policy.public_only and url.port is not None and url.port < 1024 and url.port not in _WEB_PORTS:
        raise MediaError(f"{name}: port {url.port} is not of the web; give a URL with port 80, 443 or from 1024 on")


def _body(response: httpx.Response, name: str) -> Iterator[bytes]:
    """Yield the body in small chunks, unzipping gzip that was not asked for; a zip bomb stays small in memory too."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        yield from response.iter_raw()
        return
    if encoding not in ("gzip", "x-gzip"):
        raise MediaError(f"{name}: sent with content encoding {encoding}, though not asked to; use another server")
    unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    for chunk in response.iter_raw():
        while chunk:
            yield unzip.decompress(chunk, _CHUNK_BYTES)
            chunk = unzip.unconsumed_tail
    yield unzip.flush()
    if not unzip.eof:
        raise MediaError(f"{name}: the download failed (its gzip stream is cut off)")


@contextmanager
def _hang_up(watch: Watch) -> Iterator[Any]:
    """Shut the connection down at the deadline, or once it is cancelled; yield the httpx trace hook that records it.

    httpx has timeouts for single reads only: a server that sends one header byte at a time would never reach them.
    """
    connections: list[socket.socket] = []

    def trace(event: str, info: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            connections[:] = [info["return_value"].get_extra_info("socket")]
        if event.startswith("connection."):
            watch.check()  # The thread has missed a connection made after the end.

    def hang_up() -> None:
        pause = threading.TIMEOUT_MAX if watch.cancel is None else _CANCEL_SECONDS
        while left := watch.left:
            if over.wait(min(left, pause)):
                return
        for connection in connections:
            with suppress(OSError):  # Already closed: the download has just ended.
                connection.shutdown(socket.SHUT_RDWR)

    over = threading.Event()
    threading.Thread(target=hang_up, daemon=True).start()
    try:
        yield trace
    finally:
        over.set()


def _too_large(name: str, limits: MediaLimits) -> MediaError:
    return MediaError(
        f"{name}: larger than {limits.download_bytes} bytes", setting="MediaLimits.download_bytes", advice="; raise {}"
    )
