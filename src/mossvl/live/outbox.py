"""What a session tells: the engine's thread puts tokens and events, readers take events with their texts."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from mossvl.live.events import Closed, Decision, Dropped, Evicted, LiveEvent, Text
from mossvl.live.segments import StreamTokens
from mossvl.queries.listeners import call_all
from mossvl.queries.text_stream import TextStream

MOST_UNREAD = 4096
"""Events that a reader may leave unread: at one more, the older half is shortened. An event of that half tells times
of so many frames at most."""


@dataclass
class Unread:
    """An event whose raw string is to be made of a token, if it has one; or tokens of a text (`event` is a `Text`)."""

    event: LiveEvent
    tokens: list[int]


class Outbox:
    """Events in order. Tokens become text in the reader's thread.

    Args:
        apart: the text of each token is an event of its own; otherwise unread ones are joined.
    """

    def __init__(self, tokens: StreamTokens, apart: bool = False) -> None:
        self.ended, self._apart = False, apart
        self.decisions = 0
        """Events `Decision` that were told."""
        self._special = tokens.special
        self._stream = TextStream(tokens.tokenizer, skip_special=False, keeps=False)  # A session may go on for days.
        self._entries: deque[Unread] = deque()
        self._changed = threading.Condition()
        self._reading = threading.Lock()
        self._listeners: list[Callable[[], object]] = []
        self._telling = threading.local()
        """Whether this thread calls listeners."""

    # --- the engine ----------------------------------------------------------------------------------------------

    def text(self, time: float | None, token: int) -> None:
        """Tell a token of a reply; texts that wait for a reader are one."""
        with self._changed:
            last = self._entries[-1] if self._entries and not self._apart else None
            if last is not None and self._is_text(last) and last.event.time == time:
                last.tokens.append(token)
                return
            self._put(Unread(Text(time=time, text=""), [token]))

    def tell(self, event: LiveEvent, token: int | None = None) -> None:
        """Tell an event, unless the last one is told; its raw string is that of the token, if one is given."""
        with self._changed:
            if not self.ended:
                self._put(Unread(event, [] if token is None else [token]))
                self.ended = isinstance(event, Closed)
                self.decisions += isinstance(event, Decision)

    def announce(self) -> None:
        """Wake readers, once all that happened at a time is told."""
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        self._telling.now = True
        try:
            call_all(listeners)
        finally:
            self._telling.now = False

    def disown(self, closed: Closed) -> None:
        """Tell the end of its copy in a forked process, where holders of its locks do not exist."""
        self._changed, self._reading, self._listeners = threading.Condition(), threading.Lock(), []
        self.tell(closed)

    def _is_text(self, entry: Unread) -> bool:
        """Whether an entry is a text without control tokens, to which others may be joined."""
        return type(entry.event) is Text and entry.tokens[-1] not in self._special

    def _put(self, entry: Unread) -> None:
        if len(self._entries) >= MOST_UNREAD:
            self._shorten()
        self._entries.append(entry)

    def _shorten(self) -> None:
        """Join the texts of the older half, and the frames that have gone; what else it tells is lost."""
        half = len(self._entries) // 2
        texts: list[Unread] = []
        gone: dict[tuple[type, str | None], Dropped | Evicted] = {}
        for entry in islice(self._entries, half):
            event = entry.event
            if type(event) is Text:
                words = [token for token in entry.tokens if token not in self._special]
                if texts:
                    texts[0].tokens.extend(words)
                elif words:
                    texts.append(Unread(event, words))
            elif isinstance(event, Dropped | Evicted):
                kind = type(event), event.reason if isinstance(event, Dropped) else None
                earlier = gone[kind].times if kind in gone else ()
                gone[kind] = replace(event, times=(*earlier, *event.times)[-MOST_UNREAD:])
        told = [Unread(event, []) for event in gone.values()]
        self._entries = deque([*texts, *told, *islice(self._entries, half, None)])

    # --- readers -------------------------------------------------------------------------------------------------

    def take(self) -> list[LiveEvent]:
        """Take the events so far, without waiting."""
        with self._reading:
            with self._changed:
                entries, self._entries = self._entries, deque()
            return [event for entry in entries for event in self._told(entry)]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for an event to take, or for the end; return whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._entries) or self.ended, timeout)

    def wait_end(self, timeout: float | None = None) -> bool:
        """Wait until the last event is told, but not within a listener, as the engine may; return whether it is."""
        if getattr(self._telling, "now", False):
            return self.ended
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout)

    def listen(self, listener: Callable[[], object]) -> None:
        with self._changed:
            self._listeners.append(listener)
        listener()

    def forget(self, listener: Callable[[], object]) -> None:
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _told(self, entry: Unread) -> list[LiveEvent]:
        """The events of an entry: before a control token, text may come that has waited for the rest of a character."""
        event, tokens = entry.event, entry.tokens
        if isinstance(event, Closed):
            rest = self._stream.finish()
            return [*([Text(time=event.time, text=rest, raw=rest)] if rest else []), event]
        if not tokens:
            return [event]
        raw = self._stream.push(tokens)
        control = self._special.get(tokens[-1])
        if control is None:
            return [Text(time=event.time, text=raw, raw=raw)] if raw else []
        if self._apart:  # As published, also with half a character before the token.
            return [replace(event, raw=raw)]
        text = raw.removesuffix(control)
        before = [Text(time=event.time, text=text, raw=text)] if text else []
        return [*before, replace(event, raw=control)]
