"""Incremental detokenisation, with stop strings."""

from collections.abc import Sequence
from typing import Protocol, Self

from mossvl.options import SamplingParams

UNFINISHED = "\ufffd"
"""What an incomplete character decodes to."""


class Tokenizer(Protocol):
    """What detokenisation needs of transformers' tokenizers."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


class TextStream:
    """Detokenises a stream of tokens, in chunks without incomplete characters and parts of stop strings.

    The joined chunks are the decoded answer, cut before the first stop string.

    Args:
        least: number of first tokens within which no stop string may end.
        skip_special: leave special tokens out.

    Attributes:
        text: the chunks so far, joined.
        stop_string: the stop string that has appeared; None if none has.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), least: int = 0, skip_special: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.least, self.skip_special = least, skip_special
        self.text = ""
        self.stop_string: str | None = None
        self._tokens: list[int] = []
        self._held = ""
        self._exempt = 0
        """Number of held-back characters in which no stop string may end."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self.stop_string is not None

    @classmethod
    def of(cls, tokenizer: Tokenizer, params: SamplingParams) -> Self:
        """Return the text stream of an answer with these parameters."""
        return cls(tokenizer, params.stop, params.min_tokens, params.skip_special_tokens)

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; return new text that no later token can change, which may be empty."""
        early, self.least = self.least, max(0, self.least - len(tokens))
        if not (self.stop and early):
            return self._push(tokens)
        first = self._push(tokens[:early], exempt=True)
        return first + self._push(tokens[early:]) if len(tokens) > early else first

    def _push(self, tokens: Sequence[int], exempt: bool = False) -> str:
        self._tokens += tokens
        text = self._decoded()
        if text.endswith(UNFINISHED) and not self._ends_with_literal:
            return ""
        self._tokens = []
        if exempt:
            self._exempt = len(self._held) + len(text)
        return self._release(text, final=False)

    def finish(self, cut: bool = False) -> str:
        """End the stream; return the text that was held back; with `cut`, without an incomplete last character."""
        rest = self._decoded() if self._tokens else ""
        incomplete = cut and rest.endswith(UNFINISHED) and not self._ends_with_literal
        self._tokens = []
        return self._release(rest[:-1] if incomplete else rest, final=True)

    def _decoded(self) -> str:
        return self.tokenizer.decode(self._tokens, skip_special_tokens=self.skip_special)

    @property
    def _ends_with_literal(self) -> bool:
        """Whether the last tokens encode the character U+FFFD itself."""
        tokens = self.tokenizer.encode(UNFINISHED, add_special_tokens=False)
        return bool(tokens) and self._tokens[-len(tokens) :] == tokens

    def _release(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + new
        starts = [(held.find(text, max(0, self._exempt - len(text) + 1)), text) for text in self.stop]
        found = [(start, text) for start, text in starts if start >= 0]
        if found:
            start, self.stop_string = min(found, key=lambda one: one[0])
            final_text, self._held = held[:start], ""
        else:
            keep = 0 if final else self._possible_stop(held)
            final_text, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += final_text
        self._exempt = max(0, self._exempt - len(final_text))
        return final_text

    def _possible_stop(self, text: str) -> int:
        """Return the length of the longest suffix of `text` that a stop string starts with."""
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stop)), 0)
