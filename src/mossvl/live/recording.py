"""Recorded sessions, checked line by line, and how to repeat them."""

import base64
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mossvl.errors import InputError, shown
from mossvl.live.inbox import Inbox, Taken
from mossvl.live.opening import checked_messages
from mossvl.live.options import FramePace, LiveOptions
from mossvl.live.record import FORM

AHEAD = 8
"""Inputs that are prepared before their turn."""
KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "an object",
}
"""Types of JSON, as messages have them."""
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """What was given to the model at once.

    Attributes:
        after: number of tokens drawn before it.
        frames: time and encoded image of each.
        ends: nothing is given: the session was closed here.
        line: number of its line in the recording.
    """

    after: int
    interrupts: bool = False
    prompts: tuple[str, ...] = ()
    frames: tuple[tuple[float, bytes], ...] = ()
    final: bool = False
    ends: bool = False
    line: int = 0


class Recording:
    """A recorded session. Its lines are checked at once; its images, when they are decoded.

    Attributes:
        messages: with which it began.
        options: those of the session that repeats it: as fast as possible, and never idle.
        raw: the raw strings of the session, joined.
        complete: whether the end of the session was recorded; otherwise its process was killed.

    Raises:
        InputError: the file is no recording, or has a malformed line, which the message names.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        lines = self._lines()
        number, first = next(lines, (1, {}))
        if first.get("event") != "session" or first.get("form") != FORM:
            raise InputError(f"{path}: no recording of a session; make one with mossvl watch --record")
        with self.at(number):
            self.messages = checked_messages("", None, typed(first, "messages", list))
            options = LiveOptions(**typed(first, "options", dict))
        self.options = replace(options, tokens_per_second=None, idle_timeout=None)
        self._ends_itself = False
        drawn, raw, unheard = None, [], 0
        last = Given(0)
        for number, line in lines:
            with self.at(number):
                if line.get("event") == "input":
                    last, unheard = given_of(line, number, last), 0
                    self._ends_itself = self._ends_itself or last.final
                    continue
                raw.append(str(typed(line, "raw", str)))
                unheard += len(raw[-1].encode(errors="replace"))
                if line.get("event") == "closed":
                    drawn = int(typed(line, "drawn", int))
        self.raw, self.complete = "".join(raw), drawn is not None
        # Of a session without an end, the tokens after its last input are not known, but each had a byte or more.
        self._tokens = last.after + unheard if drawn is None else drawn

    def inputs(self) -> Iterator[Given]:
        """Yield what was given to the model, in order, and the end of the session, unless an input brings it about.

        Raises:
            InputError: the file has changed, and cannot be read any more.
        """
        last = Given(0)
        for number, line in self._lines():
            if line.get("event") == "input":
                with self.at(number):
                    last = given_of(line, number, last)
                yield last
        if not self._ends_itself:
            yield Given(self._tokens, ends=True)

    @contextmanager
    def at(self, line: int) -> Iterator[None]:
        """Name a line in the errors of its content."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._path}: line {line}: {error}") from error

    def _lines(self) -> Iterator[tuple[int, Line]]:
        """Yield the lines with their numbers; the last one may be unfinished, and is then left out."""
        try:
            with self._path.open("rb") as file:
                for number, text in enumerate(file, 1):
                    if number > 1 and not text.endswith(b"\n") and not is_json(text):
                        return
                    with self.at(number):
                        line = object_of(text)
                    yield number, line
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read ({error.strerror})") from error


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def object_of(text: bytes) -> Line:
    """A line as an object of JSON."""
    try:
        line = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise InputError("no JSON; the recording is damaged here, or of another form") from error
    if not isinstance(line, dict):
        raise InputError("no object of JSON")
    return line


def typed(line: Line, name: str, kind: type) -> Any:
    """A value of a line, of one of `KINDS`."""
    value = line.get(name)
    known = (int, float) if kind is float else kind
    if not isinstance(value, known) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{name}={shown(value, 40)} must be {KINDS[kind]}")
    return value


def given_of(line: Line, number: int, before: Given) -> Given:
    """An input, checked; `before` is the one before it."""
    after, prompts = typed(line, "after", int), typed(line, "prompts", list)
    if after < before.after:
        raise InputError(f"after={shown(after, 40)} tokens, but the input before it came after {before.after}")
    for prompt in prompts:
        typed({"prompts": prompt}, "prompts", str)
    frames = tuple(map(frame_of, typed(line, "frames", list)))
    return Given(
        after, typed(line, "interrupts", bool), tuple(prompts), frames, typed(line, "final", bool), line=number
    )


def frame_of(frame: Any) -> tuple[float, bytes]:
    if not isinstance(frame, dict):
        raise InputError(f"frames: {shown(frame, 40)} must be an object with time and image")
    time, image = typed(frame, "time", float), typed(frame, "image", str)
    try:
        return time, base64.b64decode(image, validate=True)
    except ValueError as error:
        raise InputError(f"image={shown(image, 40)} must be base64 ({error})") from error


class RecordedInbox(Inbox):
    """An inbox that gives what was recorded, after as many tokens as it was given then.

    Should the model be silent sooner than it was, it is given the next input then.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__("block", AHEAD, 0)
        self._recording = recording
        self._prepared: deque[tuple[Given, Taken]] = deque()
        self._complete = False
        """Nothing more is to be prepared."""
        self.waiting = True  # The director then decides after each token.
        self.end: Callable[[], None] = lambda: None
        """Closes the session."""

    def feed(self, make: Callable[[Given], Taken], wake: Callable[[], None]) -> None:
        """Prepare the inputs, in the caller's thread, a few ahead of their turn."""
        for given in self._recording.inputs():
            with self._recording.at(given.line):
                taken = make(given)
            with self._changed:
                self._changed.wait_for(lambda: self.closed or len(self._prepared) < AHEAD)
                if self.closed:
                    return
                self._prepared.append((given, taken))
                self.preparing = False
            wake()
        with self._changed:
            self._complete, self.waiting, self.preparing = True, bool(self._prepared), False
        wake()

    def due(self, drawn: int, drawing: bool) -> bool:
        if not self._prepared:
            return self.waiting
        return drawn >= self._prepared[0][0].after or not drawing

    def take(self, pace: FramePace) -> Taken:
        """Take the next input; nothing while it is being prepared."""
        with self._changed:
            if not self._prepared:
                self.preparing = not self._complete
                return Taken()
            given, taken = self._prepared.popleft()
            self.waiting = not self._complete or bool(self._prepared)
            self._changed.notify_all()
        if given.ends:
            self.end()
        return taken
