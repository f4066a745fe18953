"""From tokens to text, piece by piece."""

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"
"""What the bytes of half a character decode to."""


class TextStream:
    """Turns tokens into text as they come: never half a character, nothing of a stop text or after one.

    The pieces joined are the decoded answer, cut at the first stop text.

    Attributes:
        text: the answer so far, what is held back included once `finish` was called.
        stopped: a stop text has appeared.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.text = ""
        self.stopped = False
        self._tokens: list[int] = []
        self._held = ""

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; return the text that is now certain, which may be none."""
        self._tokens += tokens
        text = self.tokenizer.decode(self._tokens, skip_special_tokens=True)
        if text.endswith(UNFINISHED) and not self._means_it:
            return ""
        self._tokens = []
        return self._release(text, final=False)

    def finish(self, cut: bool = False) -> str:
        """No more tokens will come; return what was held back, but no half character where the answer was cut."""
        rest = self.tokenizer.decode(self._tokens, skip_special_tokens=True) if self._tokens else ""
        half = cut and rest.endswith(UNFINISHED) and not self._means_it
        self._tokens = []
        return self._release(rest[:-1] if half else rest, final=True)

    @property
    def _means_it(self) -> bool:
        """The last tokens are those of the character U+FFFD itself."""
        tokens = self.tokenizer.encode(UNFINISHED, add_special_tokens=False)
        return bool(tokens) and self._tokens[-len(tokens) :] == tokens

    def _release(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + new
        found = [position for position in (held.find(text) for text in self.stop) if position >= 0]
        if found:
            self.stopped = True
            certain, self._held = held[: min(found)], ""
        else:
            keep = 0 if final else self._possible_stop(held)
            certain, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += certain
        return certain

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop text starts with."""
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stop)), 0)
