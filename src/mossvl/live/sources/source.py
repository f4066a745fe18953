"""What every source of live frames has in common: a thread that reads, an iterator, a stop that acts at once."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from mossvl.errors import InputError, MediaError

Timed = tuple[float, Any]
"""(seconds of the stream, image): any image that `open_image` accepts."""
PATIENCE = 1.0
"""Seconds that `close` waits for the thread, which may be within a decoder."""


class SourceClock:
    """The time by which a source paces itself; tests have one that waits for nothing."""

    def now(self) -> float:
        """Seconds since any fixed instant."""
        return time.monotonic()

    def wait(self, seconds: float, stopped: threading.Event) -> bool:
        """Wait, at most until `stopped` is set; return whether it is."""
        return stopped.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX))


@dataclass(frozen=True)
class SourceEvent:
    """Something that a source tells beside its frames.

    Attributes:
        source: the name of the source.
    """

    source: str

    def to_dict(self) -> dict[str, Any]:
        """The event as an object of JSON: {"event": "lost", "source": …}."""
        return {"event": type(self).__name__.lower(), **asdict(self)}


@dataclass(frozen=True)
class Lost(SourceEvent):
    """The connection is lost, and will be made again.

    Attributes:
        reason: why it was lost, or was not made.
        attempt: number of the next attempt since the last frame, from 1.
        again_in: seconds until that attempt.
    """

    reason: str
    attempt: int
    again_in: float


@dataclass(frozen=True)
class Found(SourceEvent):
    """A frame has come again after the connection was lost."""


@dataclass(frozen=True)
class Skipped(SourceEvent):
    """A file is no image that can be read; if it changes, it is tried again."""

    file: str
    reason: str


class FrameSource(ABC):
    """Frames in the order of their times: iterate, once, for (seconds, image).

    A thread of the source's own reads the frames, so that `stop` ends the iteration at once, whatever the thread waits
    for. Use it as a context manager, or `close` it.

    Args:
        name: the source in messages.
        told: called with events, in the source's thread.
        clock: the time by which it paces itself.

    Attributes:
        lossless: whether the source waits until a frame is taken; otherwise a newer frame replaces it, as of a camera.
    """

    lossless: ClassVar[bool] = True

    def __init__(
        self, name: str, told: Callable[[SourceEvent], object] | None = None, clock: SourceClock | None = None
    ) -> None:
        self.name, self.clock = name, clock or SourceClock()
        self.tell = told or (lambda _: None)
        self.stopped = threading.Event()
        self._changed = threading.Condition()
        self._waiting: Timed | None = None
        """The frame that was read and is not taken yet."""
        self._ended = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    def read(self) -> Generator[Timed]:
        """Yield frames, in the source's thread; return soon after `stopped` is set.

        Raises:
            MossVLError: the source gives no more frames, though it should.
        """

    def stop(self) -> None:
        """End the iteration at once; any thread may call it."""
        self.stopped.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, and wait a moment for the thread to end."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Timed]:
        """Begin to read; the iterator raises the error with which the source has failed.

        Raises:
            InputError: the source was read before.
        """
        if self._thread is not None:
            raise InputError(f"{self.name}: its frames are read once; open it again")
        # By this name the command line knows threads that may be within a decoder at exit.
        self._thread = threading.Thread(target=self._run, name="mossvl-media", daemon=True)
        self._thread.start()
        return self._take()

    def _take(self) -> Iterator[Timed]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.stopped.is_set() or self._ended or self._waiting is not None)
                frame, self._waiting = self._waiting, None
                self._changed.notify_all()
            if self.stopped.is_set():
                return
            if frame is not None:
                yield frame
            elif self._error is not None:
                raise self._error
            else:
                return

    # --- the source's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: Exception | None = None
        try:
            with closing(self.read()) as frames:
                for frame in frames:
                    if not self._put(frame):
                        break
        except Exception as raised:
            error = raised
        except BaseException as raised:  # It would end this thread alone, and its reader would wait.
            error = MediaError(f"the source has ended with {type(raised).__name__}")
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def _put(self, frame: Timed) -> bool:
        """Hand a frame over; return whether more are wanted."""
        with self._changed:
            if self.lossless:
                self._changed.wait_for(lambda: self.stopped.is_set() or self._waiting is None)
            self._waiting = frame
            self._changed.notify_all()
        return not self.stopped.is_set()


class Opening(FrameSource):
    """A source that is opened in its thread, when it is read: to open it may take long, as of a URL.

    Args:
        name: the source in messages.
        opened: opens it, until the event that it is given is set; what it raises is the error with which this source
            fails.
    """

    def __init__(self, name: str, opened: Callable[[threading.Event], FrameSource]) -> None:
        super().__init__(name)
        self._opened = opened
        self._source: FrameSource | None = None

    def read(self) -> Generator[Timed]:
        with self._opened(self.stopped) as self._source:
            if not self.stopped.is_set():
                yield from self._source.read()

    def stop(self) -> None:
        super().stop()
        if self._source is not None:
            self._source.stop()
