"""Turns and responses of the video protocol: what is said, where it ends, and what it has cost."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mossvl.live.usage import NO_USAGE, Usage
from mossvl.server.realtime.usage import counted


@dataclass(frozen=True)
class Response:
    """Speech between two silences, by its number in the session."""

    number: int
    id: str = field(default_factory=lambda: f"response_{secrets.token_hex(12)}")


class Speech:
    """Tells the model's speech.

    Args:
        send: sends a message of a type with its fields.
        usage: tokens of the session so far.
    """

    def __init__(self, send: Callable[..., None], usage: Callable[[], Usage]) -> None:
        self._send, self._usage = send, usage
        self._turn = self._silences = self._responses = 0
        self._response: Response | None = None
        self._settled = NO_USAGE

    def turn(self, seq_no: int) -> tuple[int, int]:
        """A question begins a turn; return the turn that it interrupts, and its own."""
        spoke, self._response = self._response, None
        before, self._turn = self._turn, self._turn + 1
        self._send(
            "response.turn.interrupted",
            turn_id=before,
            next_turn_id=self._turn,
            seq_no=seq_no,
            response_id=spoke.id if spoke else None,
        )
        return before, self._turn

    def say(self, text: str) -> None:
        """The model says more; its first visible text begins a response."""
        if not text:
            return
        if self._response is None and text.strip():
            self._responses += 1
            self._response = Response(self._responses)
        told: dict[str, Any] = {"response_id": None, "response_seq": None}
        if self._response is not None:
            told = {"response_id": self._response.id, "response_seq": self._response.number}
        self._send("response.text.delta", delta=text, turn_id=self._turn, **told)

    def fall_silent(self, seq_no: int | None, time: float | None) -> None:
        """The model is silent after an input, by its number and the time of its frame."""
        self._silences += 1
        self._send(
            "response.turn.silence", turn_id=self._turn, seq_no=seq_no, timestamp=time, silence_seq=self._silences
        )
        self.settle("stop", "silence")

    def settle(self, finish: str, boundary: str) -> None:
        """End the response, if there is one, and tell what was used since the one before."""
        if self._response is None:
            return
        total = self._usage()
        self._send(
            "response.done",
            response_id=self._response.id,
            response_seq=self._response.number,
            turn_id=self._turn,
            finish_reason=finish,
            boundary=boundary,
            usage=counted(total - self._settled) | {"cumulative": counted(total)},
        )
        self._response, self._settled = None, total
