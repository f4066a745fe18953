"""A folder that fills with images: each becomes a frame once it is complete."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from mossvl.errors import MediaError
from mossvl.live.sources.source import FrameSource, Skipped, SourceClock, SourceEvent, Timed
from mossvl.media.image import open_image
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".ppm")
POLL_SECONDS = 0.2
Version = tuple[int, int]
"""Time of the last change in nanoseconds, and size in bytes."""


class Folder(FrameSource):
    """The images of a folder in the order in which they were written, those that are there at first included.

    An image is read once it has kept its size and its time of change for `POLL_SECONDS`, so that one that is being
    written waits. A frame's time is the time of the file's last change, in seconds since that of the first image.

    Args:
        folder: its path; folders within it are not read.

    Raises:
        MediaError: it is no folder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        limits: MediaLimits = DEFAULT_LIMITS,
        told: Callable[[SourceEvent], object] | None = None,
        clock: SourceClock | None = None,
    ) -> None:
        super().__init__(str(folder), told, clock)
        self._folder, self._limits = Path(folder), limits
        if not self._folder.is_dir():
            raise MediaError(f"{folder}: no such folder; give one that fills with images")

    def read(self) -> Generator[Timed]:
        """As of every source.

        Raises:
            MediaError: the folder is gone.
        """
        first: int | None = None
        last = 0.0
        seen: dict[str, Version] = {}
        """What each file was when it was last looked at."""
        done: dict[str, Version] = {}
        """Files that were read, or could not be; the latter are tried again once they have changed."""
        taken: set[str] = set()
        while True:
            now = self._listed()
            still = [name for name, version in now.items() if seen.get(name) == version and done.get(name) != version]
            for name in sorted(still, key=lambda name: (now[name][0], name)):
                if name in taken:
                    continue
                done[name] = now[name]
                try:
                    with open_image(self._folder / name, self._limits) as image:
                        pixels = image.array()
                except MediaError as error:
                    self.tell(Skipped(self.name, name, str(error)))
                    continue
                taken.add(name)
                first = now[name][0] if first is None else first
                last = max(last, (now[name][0] - first) / 1e9)
                yield last, pixels
            taken &= now.keys()
            seen, done = now, {name: version for name, version in done.items() if name in now}
            if self.clock.wait(POLL_SECONDS, self.stopped):
                return

    def _listed(self) -> dict[str, Version]:
        try:
            return dict(self._images())
        except OSError as error:
            raise MediaError(f"{self.name}: the folder cannot be read ({error.strerror})") from error

    def _images(self) -> Iterator[tuple[str, Version]]:
        for path in self._folder.iterdir():
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                try:
                    status = path.stat()
                except FileNotFoundError:  # It was removed, or renamed, just now.
                    continue
                yield path.name, (status.st_mtime_ns, status.st_size)
