"""Recorded sessions: what went in, after how many tokens, and what came out, as JSON lines; and how to repeat them."""

import base64
import json
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mossvl.errors import InputError
from mossvl.live.events import Closed, LiveEvent
from mossvl.live.inbox import Inbox, Taken
from mossvl.live.options import FramePace, LiveOptions
from mossvl.live.segments import Picture
from mossvl.media.image import open_image
from mossvl.media.limits import MediaLimits

FORM = 1
"""Version of the form of recordings."""
AHEAD = 8
"""Inputs that are prepared before their turn."""
Shown = bytes | NDArray[np.uint8]
"""A frame as it was pushed: an encoded image, or pixels (height, width, 3)."""


@dataclass(frozen=True)
class Given:
    """What was given to the model at once.

    Attributes:
        after: number of tokens drawn before it.
        frames: time and encoded image of each.
        ends: nothing is given: the session was closed here.
    """

    after: int
    interrupts: bool = False
    prompts: tuple[str, ...] = ()
    frames: tuple[tuple[float, bytes], ...] = ()
    final: bool = False
    ends: bool = False


class Recorder:
    """Writes a session to a file, in a thread of its own. Use it as a context manager.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._shown: weakref.WeakKeyDictionary[Picture, Shown] = weakref.WeakKeyDictionary()
        self._lines: SimpleQueue[Callable[[], dict[str, Any]] | None] = SimpleQueue()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def begun(self, messages: Sequence[Mapping[str, str]], options: LiveOptions) -> None:
        """The session has begun."""
        told = {"event": "session", "form": FORM, "messages": list(messages), "options": asdict(options)}
        self._lines.put(lambda: told)

    def shown(self, picture: Picture, frame: Any, limits: MediaLimits) -> None:
        """A frame was pushed; its pixels are kept until it is given to the model, or dropped."""
        if not isinstance(frame, bytes):
            with open_image(frame, limits) as image:
                frame = np.array(image.array())
        self._shown[picture] = frame

    def given(self, after: int, taken: Taken) -> None:
        """The model was given something; called in the engine's thread."""
        prompts = [prompt.text for prompt in taken.prompts]
        frames = [(picture.time, self._shown.pop(picture)) for picture in taken.pictures]
        interrupts, final = taken.interrupts, taken.final

        def line() -> dict[str, Any]:
            images = [{"time": time, "image": base64.b64encode(encoded(shown)).decode()} for time, shown in frames]
            told = {"interrupts": interrupts, "prompts": prompts, "frames": images, "final": final}
            return {"event": "input", "after": after, **told}

        self._lines.put(line)

    def told(self, event: LiveEvent, drawn: int) -> None:
        """The session has told an event; so many tokens were drawn, if it is the last one."""
        ends = {"drawn": drawn} if isinstance(event, Closed) else {}
        self._lines.put(lambda: event.to_dict() | ends)

    def close(self) -> None:
        """Write what is left.

        Raises:
            OSError: the file could not be written.
        """
        self._lines.put(None)
        self._thread.join()
        self._file.close()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._error is None:
                try:
                    self._file.write(json.dumps(line(), ensure_ascii=False) + "\n")
                    self._file.flush()
                except OSError as error:
                    self._error = error


def encoded(shown: Shown) -> bytes:
    """A frame as an image file without loss."""
    if isinstance(shown, bytes):
        return shown
    data = BytesIO()
    Image.fromarray(shown).save(data, "PNG", compress_level=1)
    return data.getvalue()


class Recording:
    """A recorded session.

    Attributes:
        messages: with which it began.
        options: those of the session that repeats it: as fast as possible, and never idle.

    Raises:
        InputError: the file is no recording.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        first = next(self._lines(), None)
        if first is None or first.get("event") != "session" or first.get("form") != FORM:
            raise InputError(f"{path}: no recording of a session; make one with mossvl watch --record")
        self.messages: list[dict[str, str]] = first["messages"]
        options = LiveOptions(**first["options"])
        self.options = replace(options, tokens_per_second=None, idle_timeout=None)

    def inputs(self) -> Iterator[Given]:
        """Yield what was given to the model, in order.

        Raises:
            InputError: a line is malformed.
        """
        for line in self._lines():
            if line.get("event") == "input":
                yield self._given(line)
            elif line.get("event") == "closed" and line.get("reason") != "final":
                yield Given(line["drawn"], ends=True)

    @property
    def raw(self) -> str:
        """The raw strings of the session, joined."""
        return "".join(line.get("raw", "") for line in self._lines())

    def _given(self, line: Mapping[str, Any]) -> Given:
        try:
            frames = tuple((float(one["time"]), base64.b64decode(one["image"])) for one in line["frames"])
            prompts = tuple(map(str, line["prompts"]))
            return Given(int(line["after"]), bool(line["interrupts"]), prompts, frames, bool(line["final"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self._path}: an input is malformed ({error!r:.80})") from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open(encoding="utf-8") as file:
                for number, text in enumerate(file, 1):
                    line = json.loads(text)
                    if not isinstance(line, dict):
                        raise InputError(f"{self._path}: line {number} is no object of JSON")
                    yield line
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read ({error.strerror})") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{self._path}: a line is no JSON; the recording is cut off or of another form") from error


class Script(Inbox):
    """An inbox that gives what was recorded, after as many tokens as it was given then.

    Should the model be silent sooner than it was, it is given the next input then.
    """

    def __init__(self, inputs: Iterator[Given]) -> None:
        super().__init__("block", AHEAD, 0)
        self._inputs = inputs
        self._prepared: deque[tuple[Given, Taken]] = deque()
        self._complete = False
        """Nothing more is to be prepared."""
        self.waiting = True  # The director then decides after each token.
        self.end: Callable[[], None] = lambda: None
        """Closes the session."""

    def feed(self, make: Callable[[Given], Taken], wake: Callable[[], None]) -> None:
        """Prepare the inputs, in the caller's thread, a few ahead of their turn."""
        for given in self._inputs:
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
