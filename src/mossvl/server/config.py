"""Settings of a server: their names, defaults and limits."""

import os
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from mossvl.errors import OptionError
from mossvl.media.limits import SourcePolicy
from mossvl.options.checks import named_options, number, whole
from mossvl.options.media import MAX_PIXELS

MIB = 1 << 20
GIB = 1 << 30
CPU_PIXELS = 1 << 20
DEFAULT_PORTS = {"http": 80, "https": 443}


@named_options("server option")
@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens, whom it answers, and what a request may ask of it.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_keys: any of them must come with a request; without keys, everybody is answered.
        open_to_all: listen on other addresses than loopback although there is no key.
        origins: sites ("https://example.org", or "*" for all) whose pages a browser lets ask, beside the server's own.
        model_name: how the model is called in answers; the checkpoint's name by default.
        media_dirs: folders whose files may be asked about, by `file:` URL.
        media_domains: hosts, with their subdomains, from which media may be fetched; none named means any.
        private_media: media may be fetched from private addresses and this machine, too.
        max_queue: requests that may wait for others beside those that are computed; further ones are refused with 503.
        max_media: images and videos of a request.
        max_frames: of all videos of a request together.
        max_pixels: most pixels of an image or frame that the model sees: a request may ask for no more, and what is
            larger is shown smaller. By default 16,777,216, and 1,048,576 where the model runs on a CPU.
        max_image_pixels: largest image or frame that is decoded.
        max_duration: seconds; longest video.
        max_text: characters of a request's texts.
        max_tokens: of an answer; also how long one may get where a request does not say.
        max_answers: answers to one request (`n`).
        max_body: bytes of a request, media in `data:` URLs included.
        body_space: bytes of the bodies of all running requests together; further ones are refused with 503.
        max_download: bytes of a file that is fetched or uploaded.
        upload_space: bytes of all uploaded files together; the oldest go first.
        upload_seconds: for how long an uploaded file is kept after it was last used.
        timeout: seconds that a request may take, waiting included; a request may ask for less.
        media_timeout: seconds that fetching, opening or reading one medium may take.
        stall_timeout: seconds that a client may take to send its request or to read the next piece of its answer.
        shutdown_timeout: seconds that running requests get to end when the server is stopped.
        decoders: processes that decode media.
        decoder_memory: bytes that each may use beside what it has at its start.
        log_content: write texts of requests and answers to the log.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    open_to_all: bool = False
    origins: tuple[str, ...] = ()
    model_name: str | None = None
    media_dirs: tuple[str, ...] = ()
    media_domains: tuple[str, ...] = ()
    private_media: bool = False
    max_queue: int = 256
    max_media: int = 64
    max_frames: int = 1024
    max_pixels: int | None = None
    max_image_pixels: int = 201_326_592
    max_duration: float = 6 * 3600.0
    max_text: int = 500_000
    max_tokens: int = 8192
    max_answers: int = 8
    max_body: int = 64 * MIB
    body_space: int = 4 * GIB
    max_download: int = GIB
    upload_space: int = 8 * GIB
    upload_seconds: float = 3600.0
    timeout: float = 600.0
    media_timeout: float = 120.0
    stall_timeout: float = 60.0
    shutdown_timeout: float = 30.0
    decoders: int = max(1, min(8, (os.cpu_count() or 2) // 2))
    decoder_memory: int = 4 * GIB
    log_content: bool = False

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.type in (int, int | None) and value is not None:
                object.__setattr__(self, option.name, whole(option.name, value, 0 if option.name == "port" else 1))
            elif option.type is float:
                object.__setattr__(self, option.name, number(option.name, value, above=0))
        if self.port > 65_535:
            raise OptionError(f"port={self.port} must be at most 65535")
        if not all(self.api_keys):
            raise OptionError("an API key is empty; leave it out, or give one of some length")
        for origin in self.origins:
            if origin != "*" and site_of(origin) != origin:
                raise OptionError(
                    f"{origin!r} is no origin as browsers tell it (--allow-origin); expected https://example.org, with "
                    "letters beyond ASCII as xn--…, or *"
                )
        if "*" in self.origins and not (self.api_keys or self.open_to_all):
            raise OptionError(
                "every page that a browser here shows could use this server (--allow-origin '*'); name the sites, set "
                "an API key, or say that everybody may ask (--open-to-all)"
            )
        if not (self.api_keys or self.open_to_all or self.local):
            raise OptionError(
                f"host={self.host!r} can be reached from other machines; set an API key (--api-key or MOSSVL_API_KEY), "
                "or say that everybody may ask (--open-to-all)"
            )

        for folder in self.media_dirs:
            if not Path(folder).is_dir():
                raise OptionError(f"{folder!r} is no folder (--allow-media-dir)")
        _ = self.sources

    @property
    def sources(self) -> SourcePolicy:
        """Where media may come from.

        Raises:
            OptionError: a domain is none.
        """
        return SourcePolicy(self.media_dirs, not self.private_media, self.media_domains)

    def on(self, device: str) -> Self:
        """These settings for a model on a device of this type."""
        return replace(self, max_pixels=self.max_pixels or (CPU_PIXELS if device == "cpu" else MAX_PIXELS))

    @property
    def local(self) -> bool:
        """Only this machine reaches the server."""
        return is_local(self.host)


def site_of(url: str) -> str:
    """The scheme, host and port of a URL, as browsers tell where a page is from; "" if it has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if not host or "*" in host or not host.isascii():  # browsers tell names of other letters in ASCII: xn--…
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, DEFAULT_PORTS.get(parts.scheme)) else "")


def is_local(host: str) -> bool:
    """Whether a name or an address is this machine, for itself alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
