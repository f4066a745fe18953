"""Settings of a server: their names, defaults and limits."""

import os
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from mossvl.errors import OptionError
from mossvl.media.limits import SourcePolicy
from mossvl.options.checks import Count, Positive, Switch, Whole, check_options, named_options
from mossvl.options.media import MAX_PIXELS

MIB = 1 << 20
GIB = 1 << 30
CPU_PIXELS = 1 << 20
DECODERS = max(1, min(8, (os.cpu_count() or 2) // 2))
TEXTS = 64
"""Requests without media that load at the same time, beside those that a decoder process loads."""
DEFAULT_PORTS = {"http": 80, "https": 443}
OPENING = dict.fromkeys(("api_keys", "open_to_all"))
"""Options that let others than this machine ask, for errors to name."""


@named_options("server option")
@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens, whom it answers, and the limits of its requests.

    Attributes:
        host, port: address to listen on; port 0 takes a free port.
        api_keys: keys of which a request must bring one; without keys, every request is answered.
        open_to_all: listen beyond loopback without a key.
        origins: origins ("https://example.org", or "*" for all) that CORS allows, beside the server's own.
        model_name: the model's name in responses; by default the checkpoint's.
        media_dirs: folders whose files requests may name by `file:` URL.
        media_domains: domains, subdomains included, from which media may be fetched; an empty tuple allows any.
        private_media: allow fetching media from private addresses and from this machine.
        max_queue: waiting requests, beside the running ones; more are refused with 503.
        max_media: images and videos of a request.
        max_frames: frames of all videos of a request.
        max_pixels: largest `max_pixels` of a request, in pixels of an image or frame; larger media are scaled down. By
            default 16,777,216, and 1,048,576 where the model runs on a CPU.
        max_image_pixels: pixels of the largest image or frame that is decoded.
        max_duration: seconds of the longest video.
        max_text: characters of all texts of a request.
        max_tokens: tokens of an answer; also the default where a request gives none.
        max_answers: answers to one request (`n`).
        max_body: bytes of a request's body, `data:` URLs included.
        body_space: bytes of the bodies of all running requests; more are refused with 503.
        max_download: bytes of a file that is fetched or uploaded.
        upload_space: bytes of all uploaded files; the least recently used are removed first.
        upload_seconds: seconds that an uploaded file is kept after its last use.
        max_responses, response_space: most stored responses, and bytes of all together; the least recently used are
            removed first.
        response_seconds: seconds that a stored response is kept after its last use.
        live_sessions: live sessions at a time; one client more is refused.
        live_idle: seconds that a live session may be without input.
        live_frame_bytes: bytes of a frame of a live session, as an encoded image.
        timeout: seconds that a request may take, waiting included; a request may set a shorter one.
        media_timeout: seconds that fetching, opening or reading one medium may take.
        stall_timeout: seconds that a client may take to send the next chunk of its body, or to read the next chunk of
            its answer.
        shutdown_timeout: seconds that running requests have to end when the server stops.
        decoders: processes that decode media.
        decoder_memory: bytes that each decoder may use beyond its memory at start.
        log_content: write texts of requests and answers to the log.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Whole(0, most=65_535)] = 8000
    api_keys: tuple[str, ...] = ()
    open_to_all: Switch = False
    origins: tuple[str, ...] = ()
    model_name: str | None = None
    media_dirs: tuple[str, ...] = ()
    media_domains: tuple[str, ...] = ()
    private_media: Switch = False
    max_queue: Count = 256
    max_media: Count = 64
    max_frames: Count = 1024
    max_pixels: Count | None = None
    max_image_pixels: Count = 201_326_592
    max_duration: Positive = 6 * 3600.0
    max_text: Count = 500_000
    max_tokens: Count = 8192
    max_answers: Count = 8
    max_body: Count = 64 * MIB
    body_space: Count = 4 * GIB
    max_download: Count = GIB
    upload_space: Count = 8 * GIB
    upload_seconds: Positive = 3600.0
    max_responses: Count = 1024
    response_space: Count = GIB
    response_seconds: Positive = 3600.0
    live_sessions: Count = 16
    live_idle: Positive = 300.0
    live_frame_bytes: Count = 32 * MIB
    timeout: Positive = 600.0
    media_timeout: Positive = 120.0
    stall_timeout: Positive = 60.0
    shutdown_timeout: Positive = 30.0
    decoders: Count = DECODERS
    decoder_memory: Count = 4 * GIB
    log_content: Switch = False

    def __post_init__(self) -> None:
        check_options(self)
        if not all(self.api_keys):
            raise OptionError("{api_keys}: a key is empty; leave it out, or give one of some length", option="api_keys")
        for origin in self.origins:
            if origin != "*" and site_of(origin) != origin:
                raise OptionError(
                    "{origins=} is no origin as browsers send it; expected https://example.org, with letters beyond "
                    "ASCII as xn--…, or *",
                    given={"origins": origin},
                )
        if "*" in self.origins and not (self.api_keys or self.open_to_all):
            raise OptionError(
                "{origins=} without an API key lets every web page use this server; name the origins, set an API key "
                "({api_keys} or MOSSVL_API_KEY), or allow everybody ({open_to_all})",
                given={"origins": "*", **OPENING},
            )
        if not (self.api_keys or self.open_to_all or self.local):
            raise OptionError(
                "{host=} can be reached from other machines; set an API key ({api_keys} or MOSSVL_API_KEY), or "
                "allow everybody ({open_to_all})",
                given={"host": self.host, **OPENING},
            )
        for folder in self.media_dirs:
            if not Path(folder).is_dir():
                raise OptionError("{media_dirs=} is no folder", given={"media_dirs": folder})
        try:
            _ = self.sources
        except OptionError as error:
            raise error.named({"domains": "media_domains"}) from error

    @property
    def sources(self) -> SourcePolicy:
        """Return which files and hosts media may come from.

        Raises:
            OptionError: a domain is not a valid one.
        """
        return SourcePolicy(self.media_dirs, not self.private_media, self.media_domains)

    def on(self, device: str) -> Self:
        """Return these settings with the default `max_pixels` of a device type."""
        return replace(self, max_pixels=self.max_pixels or (CPU_PIXELS if device == "cpu" else MAX_PIXELS))

    @property
    def local(self) -> bool:
        """Whether the server listens on loopback only."""
        return is_local(self.host)


def site_of(url: str) -> str:
    """Return the origin of a URL as browsers send it (scheme, host, port); "" if the URL has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if not host or "*" in host or not host.isascii():  # Browsers send other letters as Punycode: xn--…
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, DEFAULT_PORTS.get(parts.scheme)) else "")


def is_local(host: str) -> bool:
    """Return whether a host name or address is a loopback one."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
