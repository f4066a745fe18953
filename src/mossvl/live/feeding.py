"""Gives a session the frames of a source, in a thread of its own, until either ends."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mossvl.errors import InputError, SessionClosed, shown
from mossvl.live.sources.frames import Frames
from mossvl.live.sources.source import FrameSource


class Fed(Protocol):
    """What a source is given to: a `LiveSession`."""

    @property
    def deciding(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    def push(self, frame: Any, time: float | None = None) -> object: ...
    def final(self) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def when_changed(self, listener: Callable[[], object]) -> None: ...


class Feeding:
    """Feeds a session: its source's end is the session's final input, and its source's error ends it.

    Args:
        lockstep: a frame is given once the session has decided on all that was given before.

    Raises:
        InputError: the source is none.
    """

    def __init__(self, session: Fed, source: Iterable[Any], lockstep: bool = False) -> None:
        if isinstance(source, str | bytes | Path) or not isinstance(source, Iterable):
            raise InputError(
                f"source={shown(source, 100)} yields no frames; open a source of mossvl.live.sources, such as "
                "Playback(path) or Camera(address), or give an iterable of images"
            )
        self._session, self._lockstep = session, lockstep
        self._source = source if isinstance(source, FrameSource) else Frames(source)
        self._changed = threading.Event()

    def start(self) -> None:
        """Begin, and return at once; the source is closed at the end."""
        threading.Thread(target=self._run, name="mossvl-feeding", daemon=True).start()
        self._session.when_changed(self._notice)

    def _notice(self) -> None:
        """Something has happened in the session; called in the engine's thread."""
        self._changed.set()
        if self._session.ended:
            self._source.stop()

    def _run(self) -> None:
        try:
            for seconds, frame in self._source:
                self._await_decision()
                self._session.push(frame, seconds)
            self._await_decision()
            self._session.final()
        except SessionClosed:
            pass
        except Exception as error:
            self._session.fail(error)
        finally:
            self._source.close()

    def _await_decision(self) -> None:
        """Wait until the session has decided on all that it was given, questions of others and its beginning, too."""
        while self._lockstep:
            self._changed.clear()
            if not self._session.deciding or self._session.ended:
                return
            self._changed.wait()
