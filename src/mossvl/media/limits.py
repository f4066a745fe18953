"""Limits on loading one image or video: pixels, bytes, seconds, allowed sources."""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import httpx

from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError
from mossvl.media.addresses import host_name
from mossvl.options.checks import check_options


@dataclass(frozen=True)
class SourcePolicy:
    """Allowed sources of media, for paths and URLs from untrusted users. By default, everything is allowed.

    `data:` URLs are always allowed.

    Attributes:
        directories: a path or `file:` URL must lie below one of these after symlinks are resolved; empty for no local
            files, `None` for all.
        public_only: hosts of `http(s):` URLs and of their redirects must have public addresses only; ports are 80, 443
            and 1024 upwards; a user or password in the URL is refused. Proxies from the environment are not used.
        domains: hosts, with their subdomains, that `http(s):` URLs and redirects may name; empty for all.

    Raises:
        OptionError: a directory is not a path, or a domain is not a host name.
    """

    directories: tuple[str | Path, ...] | None = None
    public_only: bool = False
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        listed = self.directories is None or isinstance(self.directories, tuple)
        if not listed or not all(isinstance(path, (str, Path)) and str(path) for path in self.directories or ()):
            raise OptionError(
                "{directories=} must be a tuple of paths, or None for any file", given={"directories": self.directories}
            )
        if not isinstance(self.public_only, bool):
            raise OptionError("{public_only=} must be true or false", given={"public_only": self.public_only})
        if not isinstance(self.domains, tuple) or not all(map(_is_domain, self.domains)):
            raise OptionError(
                "{domains=} must be a tuple of names as 'example.org', without URL or *",
                given={"domains": self.domains},
            )


def _is_domain(domain: object) -> bool:
    try:
        return isinstance(domain, str) and re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host_name(domain)) is not None
    except httpx.InvalidURL:
        return False


@dataclass(frozen=True)
class _Integer:
    least: int

    def __call__(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < self.least:
            raise OptionError(f"{{{name}=}} must be a whole number from {self.least} on", given={name: value})
        return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
        raise OptionError(f"{{{name}=}} must be a number of seconds above 0", given={name: value})
    return value


def _policy(name: str, value: Any) -> SourcePolicy:
    if not isinstance(value, SourcePolicy):
        raise OptionError(f"{{{name}=}} must be a SourcePolicy", given={name: value})
    return value


@dataclass(frozen=True)
class MediaLimits:
    """Limits on one image or one video; each is checked before the work that it limits.

    Attributes:
        image_pixels: largest height x width of an image or of a video frame.
        download_bytes: largest body of a URL, in bytes.
        timeout: seconds that one download, one scan of a file or one read may take; `inf` for no limit.
        duration: seconds of the longest video; `inf` for no limit.
        redirects: most redirects of one download.
        sources: allowed sources.

    Raises:
        OptionError: a limit is not a number above zero (`redirects`: zero or more), or `sources` is not a
            `SourcePolicy`.
    """

    image_pixels: Annotated[int, _Integer(1)] = 201_326_592
    download_bytes: Annotated[int, _Integer(1)] = 1 << 30
    timeout: Annotated[float, _seconds] = 600.0
    duration: Annotated[float, _seconds] = math.inf
    redirects: Annotated[int, _Integer(0)] = 5
    sources: Annotated[SourcePolicy, _policy] = SourcePolicy()

    def __post_init__(self) -> None:
        check_options(self)


DEFAULT_LIMITS = MediaLimits()


class Cancel(Protocol):
    """Cancels a read: a `threading.Event`, or any object with `is_set`."""

    def is_set(self) -> bool: ...


class Watch:
    """The deadline and cancellation of one download, scan or read; `check` is called between packets and chunks."""

    def __init__(self, name: str, timeout: float, cancel: Cancel | None = None) -> None:
        self.name = name
        self.timeout = timeout
        self.cancel = cancel
        self._deadline = time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds until `check` raises an error; 0 once it is cancelled."""
        cancelled = self.cancel is not None and self.cancel.is_set()
        return 0.0 if cancelled else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raise GenerationCancelled once `cancel` is set, GenerationTimeout after the deadline."""
        if self.cancel is not None and self.cancel.is_set():
            raise GenerationCancelled(f"{self.name}: reading was cancelled")
        if time.monotonic() > self._deadline:
            raise GenerationTimeout(
                f"{self.name}: not loaded within {self.timeout:g} s",
                setting="MediaLimits.timeout",
                advice="; raise {} or use a smaller file",
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Extend the deadline by the time spent inside: a slow consumer is not a slow file."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._deadline += time.monotonic() - begun
