"""What the protocols of live sessions have in common: messages and events in, acts out, no input or output."""

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from mossvl.live.events import LiveEvent
from mossvl.live.options import LiveOptions
from mossvl.live.usage import NO_USAGE, Usage
from mossvl.options.checks import hint
from mossvl.server.config import ServerConfig
from mossvl.server.errors import LONGEST_MESSAGE, RequestError, refusal
from mossvl.server.problems import first_problem
from mossvl.server.reading import check_size
from mossvl.server.schemas.realtime import PlayVideo

MOST_REFUSED = 64
"""Refused messages of a client in a row, after which the connection is closed."""
LONGEST_TEXT = 1 << 20
"""Characters of the longest text message."""


# --- acts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Send a message to the client."""

    message: dict[str, Any]


@dataclass(frozen=True)
class Begin:
    """Begin the session; `Protocol.begun` or `failed` is called then."""

    prompt: str
    system_prompt: str | None
    options: LiveOptions
    prefill: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True)
class Push:
    """Push a frame, with a prompt or without; `pushed` or `failed` is called then."""

    image: bytes = field(repr=False)
    time: float | None
    prompt: str | None = None
    final: bool = False


@dataclass(frozen=True)
class Say:
    """Give the session a prompt; `pushed` or `failed` is called then."""

    prompt: str
    final: bool = False


@dataclass(frozen=True)
class Interrupt:
    """Let the model fall silent."""


@dataclass(frozen=True)
class Play:
    """Play a file of the server as frames of the session; `playing` is called once it is open, `played` at its end."""

    video: PlayVideo


@dataclass(frozen=True)
class StopPlaying:
    """Stop the file that is played, if one is."""


@dataclass(frozen=True)
class End:
    """End the session; `Closed` is told then."""


@dataclass(frozen=True)
class Close:
    """Close the connection."""

    code: int
    reason: str = ""


Act = Send | Begin | Push | Say | Interrupt | Play | StopPlaying | End | Close


# --- protocols -------------------------------------------------------------------------------------------------------


class Protocol(ABC):
    """One client's side of a live session: takes what comes, and puts what is to be done into `acts`.

    Args:
        config: the server's limits.
        now: seconds of any origin.

    Attributes:
        acts: what is to be done, in order.
        deadline: when `late` is to be called, as `now` tells; None for never.
        usage: gives the tokens of the session so far.
    """

    forms: ClassVar[Mapping[str, type[BaseModel]]]
    """Schemas of the client's messages by their `type`."""

    def __init__(self, config: ServerConfig, now: Callable[[], float]) -> None:
        self.config, self.now = config, now
        self.acts: deque[Act] = deque()
        self.deadline: float | None = None
        self.usage: Callable[[], Usage] = lambda: NO_USAGE
        self._refused = 0

    # --- what comes ----------------------------------------------------------------------------------------------

    @abstractmethod
    def opened(self) -> None:
        """The connection is open, and there is room for a session."""

    @abstractmethod
    def full(self, error: RequestError) -> None:
        """There is no room for a session."""

    def text(self, text: str) -> None:
        """A text message has come."""
        given: Any = None
        try:
            given = read_json(text)
            message = self._checked(given, text)
        except RequestError as error:
            self._refuse(error, given)
        else:
            self.message(message)

    @abstractmethod
    def message(self, message: Any) -> None:
        """A message of one of `forms` has come."""

    @abstractmethod
    def binary(self, data: bytes) -> None:
        """A binary message has come."""

    @abstractmethod
    def begun(self) -> None:
        """The session has begun."""

    @abstractmethod
    def pushed(self, dropped: Sequence[float] = (), pending: int = 0) -> None:
        """The session has taken the input.

        Args:
            dropped: times of frames that were dropped for it.
            pending: frames that wait to be seen.
        """

    @abstractmethod
    def failed(self, error: Exception) -> None:
        """The session could not be begun, or has not taken the input."""

    @abstractmethod
    def broken(self, error: Exception) -> None:
        """Something unexpected has failed in the server: the connection ends."""

    @abstractmethod
    def told(self, event: LiveEvent) -> None:
        """The session tells an event."""

    def playing(self, path: str) -> None:
        """A file was opened, and is played; only where a message plays one."""
        raise NotImplementedError

    def played(self, sent: int, dropped: int, error: Exception | None) -> None:
        """A file was played to its end, or was stopped or could not be read; only where a message plays one."""
        raise NotImplementedError

    @abstractmethod
    def late(self) -> None:
        """The deadline has passed."""

    @abstractmethod
    def stopping(self) -> None:
        """The server is being stopped."""

    # --- what is done --------------------------------------------------------------------------------------------

    def _send(self, kind: str, **fields: Any) -> None:
        self.acts.append(Send({"type": kind, **fields}))

    def _close(self, code: int, reason: str = "") -> None:
        self.acts.append(Close(code, reason))

    @abstractmethod
    def _refuse(self, error: Exception, given: Any = None) -> None:
        """Tell that a message is refused; `given` is its JSON, if it is known. It is counted (`_too_many_refused`)."""

    def _too_many_refused(self) -> bool:
        """Count a refused message; return whether there were too many in a row."""
        self._refused += 1
        return self._refused == MOST_REFUSED

    def _taken(self) -> None:
        """An input was taken: the client is one that can be talked to."""
        self._refused = 0

    def _checked(self, given: Any, text: str) -> BaseModel:
        """Return a message as its schema.

        Raises:
            RequestError: it is none that the protocol knows, or its fields cannot be used.
        """
        kind = given.get("type") if isinstance(given, dict) else None
        if not isinstance(kind, str):
            raise invalid("a message must be an object of JSON with a type")
        form = self.forms.get(kind)
        if form is None:
            raise invalid(f"type {kind!r:.80} is unknown; {hint(kind, list(self.forms))}")
        try:
            return form.model_validate_json(text)
        except ValidationError as problems:
            raise first_problem(problems, form) from problems


def read_json(text: str) -> Any:
    """Parse a message.

    Raises:
        RequestError: it is no JSON, or would be slow to parse.
    """
    if len(text) > LONGEST_TEXT:
        raise invalid(f"the message has {len(text)} characters, more than {LONGEST_TEXT}; send less at once")
    check_size(text.encode(errors="replace"))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the message is no JSON ({error})") from error


def invalid(message: str, param: str | None = None) -> RequestError:
    return RequestError(400, "invalid_request", message, param)


def asked(text: str | None) -> str | None:
    """A prompt, or None if there are only spaces in it."""
    return text if text is not None and text.strip() else None


def words_of(error: Exception) -> str:
    """What a client is told of an error."""
    told = str(refusal(error))
    return told if len(told) <= LONGEST_MESSAGE else f"{told[: LONGEST_MESSAGE - 1]}…"


IMAGES: dict[str, Callable[[bytes], bool]] = {
    "image/jpeg": lambda data: data[:3] == b"\xff\xd8\xff",
    "image/png": lambda data: data[:8] == b"\x89PNG\r\n\x1a\n",
    "image/webp": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
}


def check_image(data: bytes, most: int, kind: str | None = None) -> None:
    """Check an image's bytes without decoding them.

    Raises:
        RequestError: there are none, or more than `most`, or they are not of this media type (any, if it is None).
    """
    if not data:
        raise invalid("the frame is empty; send the bytes of an image")
    if len(data) > most:
        raise RequestError(413, "too_large", f"the frame has {len(data)} bytes, more than {most} (--live-frame-bytes)")
    if not any(is_one(data) for name, is_one in IMAGES.items() if kind in (None, name)):
        raise invalid(f"the frame is no {kind or ' or '.join(IMAGES)}")
