"""Records sessions: what went in, after how many tokens, and what came out, as JSON lines."""

import base64
import json
import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mossvl.errors import ResourceError, message_of
from mossvl.live.events import Closed, LiveEvent
from mossvl.live.inbox import Taken
from mossvl.live.options import LiveOptions
from mossvl.live.segments import Picture
from mossvl.media.image import open_image
from mossvl.media.limits import MediaLimits

logger = logging.getLogger(__name__)
FORM = 1
"""Version of the form of recordings."""
MOST_WAITING, LINE_BYTES = 256 << 20, 1024
"""Bytes that wait to be written at most, and those of a line beside its pixels, about."""
Shown = bytes | NDArray[np.uint8]
"""A frame as it was pushed: an encoded image, or pixels (height, width, 3)."""


@dataclass(frozen=True)
class Line:
    """A line to be written: what makes it, and the bytes that are kept for it."""

    make: Callable[[], dict[str, Any]]
    size: int


class Recorder:
    """Writes a session to a file, in a thread of its own. Use it as a context manager.

    A failure ends the recording, not the session: it is logged once, and what was written stays.

    Attributes:
        error: why the recording has ended before the session; None if it has not.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.error: Exception | None = None
        self._path, self._file = path, path.open("w", encoding="utf-8")
        self._shown: weakref.WeakKeyDictionary[Picture, Shown] = weakref.WeakKeyDictionary()
        self._lines: SimpleQueue[Line | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting, self._records = 0, True
        """Bytes that wait to be written; whether lines are taken."""
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def begun(self, messages: Sequence[Mapping[str, str]], options: LiveOptions) -> None:
        """The session has begun."""
        told = {"event": "session", "form": FORM, "messages": list(messages), "options": asdict(options)}
        self._put(lambda: told)

    def shown(self, picture: Picture, frame: Any, limits: MediaLimits) -> None:
        """A frame was pushed; its pixels are kept until it is given to the model, or dropped."""
        if not self._records:
            return
        try:
            if not isinstance(frame, bytes):
                with open_image(frame, limits) as image:
                    frame = np.array(image.array())
            self._shown[picture] = frame
        except Exception as error:
            self._fail(error)

    def given(self, after: int, taken: Taken) -> None:
        """The model was given something; called in the engine's thread."""
        prompts = [prompt.text for prompt in taken.prompts]
        shown = [(picture.time, self._shown.pop(picture, b"")) for picture in taken.pictures]
        interrupts, final = taken.interrupts, taken.final

        def line() -> dict[str, Any]:
            images = [{"time": time, "image": base64.b64encode(encoded(frame)).decode()} for time, frame in shown]
            told = {"interrupts": interrupts, "prompts": prompts, "frames": images, "final": final}
            return {"event": "input", "after": after, **told}

        self._put(line, sum(len(frame) if isinstance(frame, bytes) else frame.nbytes for _, frame in shown))

    def told(self, event: LiveEvent, drawn: int) -> None:
        """The session has told an event; so many tokens were drawn, if it is the last one."""
        ends = {"drawn": drawn} if isinstance(event, Closed) else {}
        self._put(lambda: event.to_dict() | ends)

    def close(self) -> None:
        """Write what is left."""
        self._records = False
        self._lines.put(None)
        self._thread.join()
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, make: Callable[[], dict[str, Any]], size: int = 0) -> None:
        """Have a line written, for which pixels of so many bytes are kept until then."""
        if not self._records:
            return
        size += LINE_BYTES
        with self._lock:
            full = bool(self._waiting) and self._waiting + size > MOST_WAITING
            self._waiting += 0 if full else size
        if full:
            self._fail(ResourceError(f"the disk is too slow: more than {MOST_WAITING >> 20} MiB wait to be written"))
        else:
            self._lines.put(Line(make, size))

    def _fail(self, error: Exception) -> None:
        with self._lock:
            told, self.error, self._records = self.error is not None, self.error or error, False
        if not told:
            self._shown.clear()
            logger.warning("the recording %s ends here, the session does not: %s", self._path, message_of(error))

    def _write(self) -> None:
        """Write lines until one fails, and drop the others."""
        writes = True
        while (line := self._lines.get()) is not None:
            try:
                if writes:
                    self._file.write(json.dumps(line.make(), ensure_ascii=False) + "\n")
                    self._file.flush()
            except Exception as error:
                writes = False
                self._fail(error)
            with self._lock:
                self._waiting -= line.size


def encoded(shown: Shown) -> bytes:
    """A frame as an image file without loss."""
    if isinstance(shown, bytes):
        return shown
    data = BytesIO()
    Image.fromarray(shown).save(data, "PNG", compress_level=1)
    return data.getvalue()
