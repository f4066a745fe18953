"""What a live session tells: typed events, in order."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

WORDS = re.compile("(?<!^)(?=[A-Z])")


@dataclass(frozen=True, kw_only=True)
class LiveEvent:
    """Something that happened in a session.

    Attributes:
        time: seconds of the stream of the newest frame that the model has seen; None before the first.
        raw: the strings that the published loop puts on its output queue. Those of all events, joined, are its output.
    """

    time: float | None = None
    raw: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The event as an object of JSON: {"event": "speech_started", "time": …, …}."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(error := told.get("error"), BaseException):
            told["error"] = str(error)
        return {"event": WORDS.sub("_", type(self).__name__).lower(), **told}


@dataclass(frozen=True, kw_only=True)
class Turn(LiveEvent):
    """A prompt was given to the model."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Seen(LiveEvent):
    """The model has seen a frame, and decided what comes next.

    Attributes:
        number: of the frame, from 0, dropped ones not counted.
        tokens: vision tokens.
        lag: seconds from `push` to the decision.
    """

    number: int
    tokens: int
    lag: float


@dataclass(frozen=True, kw_only=True)
class SpeechStarted(LiveEvent):
    """The model begins to speak."""


@dataclass(frozen=True, kw_only=True)
class Text(LiveEvent):
    """More text of a reply; empty where the reply goes on after a frame (`raw` tells)."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Silence(LiveEvent):
    """The model is silent.

    Attributes:
        inserted: the session has put the silence after a prompt; the model has not drawn it.
        ends_reply: the model was speaking.
    """

    inserted: bool = False
    ends_reply: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision(LiveEvent):
    """The slot after the newest frame or prompt is over.

    Attributes:
        silent: nothing was said in the slot.
        goes_on: a reply is not finished.
    """

    silent: bool
    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class Interrupted(LiveEvent):
    """A reply was cut by `interrupt`."""


@dataclass(frozen=True, kw_only=True)
class Dropped(LiveEvent):
    """Frames were dropped: the model has not seen them, and decides nothing for them.

    Attributes:
        times: of the frames, in seconds of the stream.
        reason: the rule that dropped them because the model was behind (see `LiveOptions.when_behind`), or "context":
            a new context has no room for them.
    """

    times: tuple[float, ...]
    reason: Literal["queue", "latest", "context"]


@dataclass(frozen=True, kw_only=True)
class Evicted(LiveEvent):
    """Frames have left the window: the model does not see them any more."""

    times: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RolledOver(LiveEvent):
    """The session goes on in a new context, with a part of what it knew.

    Attributes:
        kept_tokens, kept_frames: of the old context.
        reason: the context was full ("length"), or its memory was needed ("preempted").
    """

    kept_tokens: int
    kept_frames: int
    reason: Literal["length", "preempted"]


@dataclass(frozen=True, kw_only=True)
class Limit(LiveEvent):
    """A reply was stopped by a limit, named as in `LiveOptions`."""

    kind: str


@dataclass(frozen=True, kw_only=True)
class Closed(LiveEvent):
    """The session has ended; the last event.

    Attributes:
        reason: "closed" (by its user), "final" (the reply to the final input is complete), "idle" or "error".
        prefill: messages with which another session goes on from here: `llm.live(prefill=…)`.
        error: why it, or its source, has failed.
    """

    reason: str
    prefill: list[dict[str, str]]
    error: Exception | None = None
