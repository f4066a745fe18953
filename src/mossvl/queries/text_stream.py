"""From tokens to text, piece by piece."""

from collections.abc import Sequence
from typing import Any, Self

from mossvl.options import SamplingParams

UNFINISHED = "\ufffd"
"""What the bytes of half a character decode to."""


class TextStream:
    """Turns tokens into text as they come: never half a character, nothing of a stop text or after one.

    The pieces joined are the decoded answer, cut at the first stop text.

    Args:
        least: tokens in which no stop text counts, unless it goes on after them.
        skip_special: leave special tokens out.

    Attributes:
        text: the answer so far, what is held back included once `finish` was called.
        stopped: a stop text has appeared.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), least: int = 0, skip_special: bool = True) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.least, self.skip_special = least, skip_special
        self.text = ""
        self.stopped = False
        self._tokens: list[int] = []
        self._held = ""
        self._exempt = 0
        """Characters held back that no stop text may end in."""

    @classmethod
    def of(cls, tokenizer: Any, params: SamplingParams) -> Self:
        """Return the stream of an answer with these parameters."""
        return cls(tokenizer, params.stop, params.min_tokens, params.skip_special_tokens)

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; return the text that is now certain, which may be none."""
        early, self.least = self.least, max(0, self.least - len(tokens))
        if not (self.stop and early):
            return self._push(tokens)
        first = self._push(tokens[:early], exempt=True)
        return first + self._push(tokens[early:]) if len(tokens) > early else first

    def _push(self, tokens: Sequence[int], exempt: bool = False) -> str:
        self._tokens += tokens
        text = self._decoded()
        if text.endswith(UNFINISHED) and not self._means_it:
            return ""
        self._tokens = []
        if exempt:
            self._exempt = len(self._held) + len(text)
        return self._release(text, final=False)

    def finish(self, cut: bool = False) -> str:
        """No more tokens will come; return what was held back, but no half character where the answer was cut."""
        rest = self._decoded() if self._tokens else ""
        half = cut and rest.endswith(UNFINISHED) and not self._means_it
        self._tokens = []
        return self._release(rest[:-1] if half else rest, final=True)

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self._tokens, skip_special_tokens=self.skip_special))

    @property
    def _means_it(self) -> bool:
        """The last tokens are those of the character U+FFFD itself."""
        tokens = self.tokenizer.encode(UNFINISHED, add_special_tokens=False)
        return bool(tokens) and self._tokens[-len(tokens) :] == tokens

    def _release(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + new
        starts = [held.find(text, max(0, self._exempt - len(text) + 1)) for text in self.stop]
        found = [position for position in starts if position >= 0]
        if found:
            self.stopped = True
            certain, self._held = held[: min(found)], ""
        else:
            keep = 0 if final else self._possible_stop(held)
            certain, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += certain
        self._exempt = max(0, self._exempt - len(certain))
        return certain

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop text starts with."""
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stop)), 0)
