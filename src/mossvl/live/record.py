"""Records sessions: what went in, after how many tokens, and what came out, as JSON lines."""

import base64
import json
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mossvl.live.events import Closed, LiveEvent
from mossvl.live.inbox import Taken
from mossvl.live.options import LiveOptions
from mossvl.live.segments import Picture
from mossvl.media.image import open_image
from mossvl.media.limits import MediaLimits

FORM = 1
"""Version of the form of recordings."""
Shown = bytes | NDArray[np.uint8]
"""A frame as it was pushed: an encoded image, or pixels (height, width, 3)."""


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
