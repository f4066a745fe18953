"""Reads answers while they grow, for the events of a stream."""

from collections.abc import Sequence
from typing import NamedTuple

from mossvl.queries.handle import Handle, Scored
from mossvl.queries.results import TokenLogprobs
from mossvl.server.answers import REASONS


class News(NamedTuple):
    """What is new of an answer.

    Attributes:
        pieces: if log-probabilities are wanted, the text of each token with them; then text without, if any.
        reason: why the answer has ended (a key of `REASONS`), when all of it is told; told once.
    """

    pieces: Sequence[Scored] = ()
    reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    @property
    def drawn(self) -> list[TokenLogprobs]:
        """Log-probabilities of the pieces' tokens."""
        return [drawn for _, drawn in self.pieces if drawn is not None]


class DraftReader:
    """Reads one answer of a query, each part of it once."""

    def __init__(self, handle: Handle, answer: int = 0) -> None:
        self._handle, self._answer, self._ended = handle, answer, False

    def news(self) -> News:
        """Return what is new since the last call."""
        if self._ended:
            return News()
        reason = self._handle.drafts[self._answer].finish_reason  # Read first: the last token comes before the reason.
        pieces = self._handle.take_scored(self._answer)
        self._ended = reason in REASONS
        return News(pieces, reason if self._ended else None)
