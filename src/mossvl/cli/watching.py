"""A session at the terminal: fed by a source, asked by lines that are typed, printed as it speaks."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue

from mossvl.cli.flags import flags_of
from mossvl.cli.live_options import LiveFlags
from mossvl.cli.options import LimitFlags
from mossvl.cli.speech import Speech
from mossvl.errors import MossVLError, SessionClosed, message_of
from mossvl.live.events import Closed, Interrupted
from mossvl.live.record import Recorder
from mossvl.live.session import LiveSession
from mossvl.live.sources import FrameSource, SourceEvent


@dataclass(frozen=True)
class Line:
    """A line that was typed."""

    text: str


class Changed:
    """The session has new events."""


class Pressed:
    """Ctrl-C was pressed."""


Happening = Line | Changed | Pressed | SourceEvent
Happenings = SimpleQueue[Happening]


class Watching:
    """A session that is fed, asked and printed until it ends.

    Args:
        happenings: takes what happens, from all threads.
        as_events: print every event as JSON.
        lockstep: a frame is given once the session has decided on all that was given before.
    """

    def __init__(
        self,
        session: LiveSession,
        frames: FrameSource,
        happenings: Happenings,
        as_events: bool,
        lockstep: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self._session, self._frames, self._happenings = session, frames, happenings
        self._speech = Speech(as_events)
        self._lockstep, self._recorder = lockstep, recorder
        self._over = self._ended = False

    def run(self) -> bool:
        """Print what the model says until the session ends; return whether Ctrl-C has ended it.

        Raises:
            MossVLError: the source or the session has failed.
        """
        session, happenings = self._session, self._happenings
        session.watch(self._frames, lockstep=self._lockstep)
        threading.Thread(target=self._ask, daemon=True).start()
        session.when_changed(lambda: happenings.put(Changed()))
        try:
            with pressing(happenings):
                while not self._over:
                    self._take_in(happenings.get())
        finally:
            self._leave()
        return self._ended

    def _leave(self) -> None:
        """End the session, and print its last words."""
        self._session.close()
        with suppress(MossVLError):  # It is raised where it comes.
            self._tell()
        self._speech.end()

    # --- what happens --------------------------------------------------------------------------------------------

    def _take_in(self, happening: Happening) -> None:
        match happening:
            case Changed():
                self._tell()
            case Line():
                self._question(happening.text)
            case Pressed():
                self._pressed()
            case SourceEvent():
                self._speech.source(happening)

    def _tell(self) -> None:
        for event in self._session.take():
            self._speech.tell(event)
            if isinstance(event, Interrupted):
                self._speech.note("interrupted; Ctrl-C again ends")
            if self._recorder is not None:
                self._recorder.told(event, self._session.usage.text_output)
            if isinstance(event, Closed):
                self._over = True
                if event.error is not None:
                    raise event.error

    def _question(self, text: str) -> None:
        self._speech.typed()
        try:
            self._session.say(text)
        except MossVLError as error:
            self._speech.note(message_of(error, flags_of(LiveFlags, LimitFlags)))

    def _pressed(self) -> None:
        if not self._speech.speaking:
            self._over = self._ended = True
            return
        with suppress(SessionClosed):
            self._session.interrupt()

    # --- what is typed -------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Read questions from stdin; a terminal's only while this is its foreground process."""
        try:
            number = sys.stdin.fileno()
            if os.isatty(number) and os.tcgetpgrp(number) != os.getpgrp():
                return
            rest = b""
            while data := os.read(number, 4096):  # No buffer of Python's: its lock would be held at exit.
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._put(line)
            self._put(rest)
        except (OSError, ValueError, AttributeError):  # There is no stdin.
            return

    def _put(self, line: bytes) -> None:
        if text := line.decode(errors="replace").strip():
            self._happenings.put(Line(text))


@contextmanager
def pressing(happenings: Happenings) -> Iterator[None]:
    """Take Ctrl-C as something that happens, instead of as the end."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: happenings.put(Pressed()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
