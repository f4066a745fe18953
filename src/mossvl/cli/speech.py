"""What a session says, on stdout: `[12.0 s] …` lines, or every event as JSON."""

import json
import sys

from mossvl.live.events import Closed, Dropped, Interrupted, Limit, LiveEvent, RolledOver, Silence, Text, Turn
from mossvl.live.sources import Found, Lost, Skipped, SourceEvent


def warn(message: str) -> None:
    """Print a line on stderr."""
    print(f"mossvl: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)


def ends_speech(event: LiveEvent) -> bool:
    """Whether the model says no more until something is given to it."""
    match event:
        case Turn() | Interrupted() | Limit() | Closed():
            return True
        case Silence():
            return not event.inserted
        case Text():
            return event.raw == "<|im_end|>"
    return False


class Speech:
    """Prints events as they come.

    Args:
        as_events: every event as an object of JSON.
    """

    def __init__(self, as_events: bool) -> None:
        self._as_events = as_events
        self._line = ""
        """The beginning of the reply's line that is being printed; "" between replies."""
        self._broken = False
        """A message or a typed line has come between; the reply goes on below it."""
        self.speaking = False
        """Whether the model is speaking."""
        self._dropped = 0
        self._limits: set[str] = set()
        """Limits that were told."""

    def tell(self, event: LiveEvent) -> None:
        """Print an event of the session."""
        if isinstance(event, Text) and event.text:
            self.speaking = True
        elif ends_speech(event):
            self.speaking = False
        if self._as_events:
            print(json.dumps(event.to_dict(), ensure_ascii=False), flush=True)
            return
        if isinstance(event, Text):
            self._say(event)
        if not self.speaking:
            self.end()
        self._note(event)

    def source(self, event: SourceEvent) -> None:
        """Print an event of the source."""
        if self._as_events:
            print(json.dumps(event.to_dict(), ensure_ascii=False), flush=True)
        elif isinstance(event, Lost):
            self.note(f"{event.source}: lost ({event.reason}); attempt {event.attempt} in {event.again_in:g} s")
        elif isinstance(event, Found):
            self.note(f"{event.source}: found again")
        elif isinstance(event, Skipped):
            self.note(f"{event.source}: {event.file} is left out ({event.reason})")

    def note(self, message: str) -> None:
        """Print a line on stderr; on a terminal, not into the line of a reply."""
        if self._line and not self._broken and sys.stdout.isatty() and sys.stderr.isatty():
            print(flush=True)
            self._broken = True
        warn(message)

    def typed(self) -> None:
        """A line was typed: on a terminal, a reply goes on below it."""
        self._broken = self._broken or bool(self._line and sys.stdout.isatty() and sys.stdin.isatty())

    def end(self) -> None:
        """End the line that is being printed."""
        if self._line and not self._broken:
            print(flush=True)
        self._line, self._broken = "", False

    def _say(self, event: Text) -> None:
        text = event.text.lstrip() if self._broken or not self._line else event.text
        if not text:
            return
        if not self._line:
            self._line = "[start] " if event.time is None else f"[{event.time:.1f} s] "
            print(self._line, end="")
        elif self._broken:
            print(" " * len(self._line), end="")
        self._broken = False
        print(text.replace("\n", "\n" + " " * len(self._line)), end="", flush=True)

    def _note(self, event: LiveEvent) -> None:
        """Tell on stderr what a watcher should know."""
        if isinstance(event, Dropped):
            if not self._dropped and event.reason != "context":
                self.note("the model is behind: frames are dropped (--fps, --when-behind)")
            self._dropped += len(event.times)
        elif isinstance(event, RolledOver):
            self.note(f"the session goes on in a new context ({event.reason}), with {event.kept_frames} frames")
        elif isinstance(event, Limit) and event.kind not in self._limits:
            self._limits.add(event.kind)
            self.note(f"replies are stopped by --{event.kind.replace('_', '-')}")
        elif isinstance(event, Closed) and self._dropped:
            self.note(f"{self._dropped} frames were dropped")
