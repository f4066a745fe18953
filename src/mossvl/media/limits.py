"""What loading one image or video may cost (pixels, downloaded bytes, seconds), and where it may come from."""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError
from mossvl.media.addresses import host_name


@dataclass(frozen=True)
class SourcePolicy:
    """Where media may come from, for those who load what strangers name. By default, from anywhere.

    `data:` URLs are always read.

    Attributes:
        directories: the directories below which a path or `file:` URL must lie, after links are followed; none for no
            local files, `None` for all.
        public_only: hosts of `http(s):` URLs, and those that they redirect to, must have public addresses only, and
            be reached at port 80, 443 or one from 1024 on, without a user or password in the URL. Proxies that the
            environment names are not used.
        domains: the hosts which `http(s):` URLs may name and redirect to, with all of their subdomains; none for any.

    Raises:
        OptionError: a directory is no path, or a domain is no host's name.
    """

    directories: tuple[str | Path, ...] | None = None
    public_only: bool = False
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        listed = self.directories is None or isinstance(self.directories, tuple)
        if not listed or not all(isinstance(path, (str, Path)) and str(path) for path in self.directories or ()):
            raise OptionError(f"directories is {self.directories!r}; give a tuple of paths, or None for any file")
        if not isinstance(self.public_only, bool):
            raise OptionError(f"public_only is {self.public_only!r}; give True or False")
        if not isinstance(self.domains, tuple) or not all(map(_is_domain, self.domains)):
            raise OptionError(f"domains is {self.domains!r}; give a tuple of names as 'example.org', without URL or *")


def _is_domain(domain: object) -> bool:
    try:
        return isinstance(domain, str) and re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host_name(domain)) is not None
    except httpx.InvalidURL:
        return False


@dataclass(frozen=True)
class MediaLimits:
    """Limits on one image or one video; checked before the work they limit is begun.

    Attributes:
        image_pixels: largest height x width of an image or of a video frame.
        download_bytes: largest body of a URL, in bytes.
        timeout: seconds that one download, one opening or one reading may take; `inf` for no limit.
        duration: seconds of the longest video; `inf` for no limit.
        redirects: how often one download may be sent on to another URL.
        sources: where media may come from.

    Raises:
        OptionError: a limit is not a number above zero (`redirects`: from zero on), or `sources` is no `SourcePolicy`.
    """

    image_pixels: int = 201_326_592
    download_bytes: int = 1 << 30
    timeout: float = 600.0
    duration: float = math.inf
    redirects: int = 5
    sources: SourcePolicy = SourcePolicy()

    def __post_init__(self) -> None:
        for name, least in (("image_pixels", 1), ("download_bytes", 1), ("redirects", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} is {value!r}; give an integer {'above zero' if least else 'from zero on'}")
        for name in ("timeout", "duration"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
                raise OptionError(f"{name} is {value!r}; give seconds, a number above zero")
        if not isinstance(self.sources, SourcePolicy):
            raise OptionError(f"sources is {self.sources!r}; give a SourcePolicy")


DEFAULT_LIMITS = MediaLimits()


class Cancel(Protocol):
    """What a caller may hand in to stop a reading: a `threading.Event` or anything with its `is_set`."""

    def is_set(self) -> bool: ...


class Watch:
    """The clock and the cancel hook of one loading; `check` is called between packets and chunks."""

    def __init__(self, name: str, timeout: float, cancel: Cancel | None = None) -> None:
        self.name = name
        self.timeout = timeout
        self.cancel = cancel
        self._deadline = time.monotonic() + timeout

    def check(self) -> None:
        """Raise GenerationCancelled or GenerationTimeout when it is time to stop."""
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
        """Time spent inside does not count: a slow consumer must not look like a slow file."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._deadline += time.monotonic() - begun
