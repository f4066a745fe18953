"""Live sessions through the front: what was said in them, with which a session goes on when its replica has died."""

import json
from collections.abc import Generator
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from mossvl.live.usage import NO_USAGE
from mossvl.server.errors import RequestError
from mossvl.server.realtime.ends import MOST_PREFILL_TEXT, STOPPING, shortened
from mossvl.server.realtime.usage import counted

SIMPLE = "/v1/realtime"
LONGEST_READ = 1 << 18
"""Bytes of a message that is read: larger ones hold images."""


class FrameReader:
    """Reads WebSocket frames from the bytes of one direction."""

    def __init__(self, masked: bool) -> None:
        self._masked, self._stream = masked, StreamReader()
        self._parsing: Generator[None, None, Frame] | None = None
        self._broken = False

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are whole now; none any more after what is no frame."""
        found: list[Frame] = []
        if self._broken:
            return found
        self._stream.feed_data(data)
        while True:
            if self._parsing is None:
                self._parsing = Frame.parse(self._stream.read_exact, mask=self._masked)
            try:
                next(self._parsing)
                return found
            except StopIteration as whole:
                found.append(whole.value)
                self._parsing = None
            except ProtocolError:
                self._broken = True
                return found


class Transcript:
    """What was asked and said in a session, as far as a new one can be told of it.

    Args:
        path: the route, which tells the protocol.

    Attributes:
        closed: the replica has closed the session.
    """

    def __init__(self, path: str) -> None:
        self._simple = path == SIMPLE
        self._asking, self._saying = FrameReader(masked=True), FrameReader(masked=False)
        self._messages: list[dict[str, str]] = []
        self._ids: dict[str, Any] = {}
        self.closed = False

    def from_client(self, data: bytes) -> None:
        """Read bytes that pass to the replica."""
        for frame in self._asking.feed(data):
            message = _read(frame)
            kind = message.get("type")
            if kind in ("start", "session.configure"):
                self._configure(message)
            elif kind in ("frame", "prompt", "input.frame", "input.prompt"):
                self._add("user", message.get("prompt") or message.get("text"))

    def from_replica(self, data: bytes) -> bytes:
        """Read bytes that pass to the client; return those of the frames that are whole."""
        frames = self._saying.feed(data)
        for frame in frames:
            self.closed |= frame.opcode is Opcode.CLOSE
            message = _read(frame)
            kind = message.get("type")
            if kind in ("output", "response.text.delta"):
                self._add("assistant", message.get("text") or message.get("delta"))
            elif kind == "session.ready":
                self._ids = {name: value for name, value in message.items() if name not in ("type", "turn_id")}
            elif kind in ("session_end", "session.done"):
                self.closed = True
        return b"".join(frame.serialize(mask=False) for frame in frames)

    def last_messages(self, error: RequestError) -> bytes:
        """Return the frames that end the session in its protocol's words, and close its socket."""
        prefill = shortened(self._messages)
        if self._simple:
            told: dict[str, Any] = {"type": "error", "message": str(error), "code": error.code}
            end: dict[str, Any] = {"type": "session_end", "reason": error.code, "prefill": prefill}
        else:
            told = {"type": "error", "code": "response_failed", "message": str(error)}
            usage = counted(NO_USAGE)
            end = {"type": "session.done", **self._ids, "reason": "error", "aborted": False, "usage": usage}
            end["prefill_messages"] = prefill
        texts = [json.dumps(message, ensure_ascii=False).encode() for message in (told, end)]
        frames = [Frame(Opcode.TEXT, text) for text in texts]
        closing = Frame(Opcode.CLOSE, Close(STOPPING, error.code).serialize())
        return b"".join(frame.serialize(mask=False) for frame in (*frames, closing))

    def _configure(self, message: dict[str, Any]) -> None:
        given = message.get("prefill_messages")
        for one in given if isinstance(given, list) else ():
            if isinstance(one, dict):
                self._add(one.get("role"), one.get("content"))
        if system := message.get("system_prompt"):
            self._messages = [one for one in self._messages if one["role"] != "system"]
            self._messages.insert(0, {"role": "system", "content": str(system)})
        if not any(one["role"] == "user" for one in self._messages) or message.get("prompt"):
            self._messages.append({"role": "user", "content": str(message.get("prompt") or "")})

    def _add(self, role: Any, text: Any) -> None:
        if not isinstance(text, str) or not text or role not in ("system", "user", "assistant"):
            return
        if role == "assistant" and self._messages and self._messages[-1]["role"] == "assistant":
            self._messages[-1]["content"] = (self._messages[-1]["content"] + text)[-MOST_PREFILL_TEXT:]
            return
        self._messages.append({"role": role, "content": text[-MOST_PREFILL_TEXT:]})
        self._messages = [dict(one) for one in shortened(self._messages)]


def _read(frame: Frame) -> dict[str, Any]:
    """Return a message that is a JSON object in one frame; {} for any other."""
    if frame.opcode is not Opcode.TEXT or not frame.fin or len(frame.data) > LONGEST_READ:
        return {}
    try:
        message = json.loads(bytes(frame.data))
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
