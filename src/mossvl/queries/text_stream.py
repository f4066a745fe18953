"""Incremental detokenisation, with stop strings and calls that end an answer."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Protocol, Self

from mossvl.options import SamplingParams
from mossvl.tools.calls import END, CallReader

UNFINISHED = "\ufffd"
"""What an incomplete character decodes to."""


class Tokenizer(Protocol):
    """What detokenisation needs of transformers' tokenizers."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


class TextStream:
    """Detokenises a stream of tokens, in chunks without incomplete characters and parts of stop strings.

    The joined chunks are the decoded answer, cut before the first stop string, or after the first call.

    Args:
        least: number of first tokens within which no stop string may end.
        skip_special: leave special tokens out.
        calls: functions of which one call ends the answer.
        keeps: whether to keep the text; `calls` need it.

    Attributes:
        text: the chunks so far, joined, if they are kept.
        stopped: whether a stop string has appeared, or a call that ends the answer.
        stop_string: the stop string that has appeared; None if none has.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        least: int = 0,
        skip_special: bool = True,
        calls: Collection[str] = (),
        keeps: bool = True,
    ) -> None:
        self.tokenizer, self.keeps = tokenizer, keeps
        self.stop = tuple(stop)
        self.least, self.skip_special = least, skip_special
        self._calls = calls
        self._marks = (*self.stop, *([END] if calls else ()))
        """Texts that may end the answer."""
        self.text = ""
        self.stopped = False
        self.stop_string: str | None = None
        self._tokens: list[int] = []
        self._held = ""
        self._exempt = 0
        """Number of held-back characters in which no stop string may end."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, params: SamplingParams, calls: Collection[str] = ()) -> Self:
        """Return the text stream of an answer with these parameters."""
        return cls(tokenizer, params.stop, params.min_tokens, params.skip_special_tokens, calls)

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; return new text that no later token can change, which may be empty."""
        early, self.least = self.least, max(0, self.least - len(tokens))
        if not (self._marks and early):
            return self._push(tokens)
        first = self._push(tokens[:early], exempt=True)
        return first + self._push(tokens[early:]) if len(tokens) > early else first

    def _push(self, tokens: Sequence[int], exempt: bool = False) -> str:
        known = len(self._tokens)  # No character ends with one of these.
        self._tokens += tokens
        for end in range(len(self._tokens), known, -1):
            text = self._decoded(end)
            if text.endswith(UNFINISHED) and not self._ends_with_literal(end):
                continue
            del self._tokens[:end]
            if exempt:
                self._exempt = len(self._held) + len(text)
            return self._release(text, final=False)
        return ""

    def finish(self, cut: bool = False) -> str:
        """End the stream; return the text that was held back; with `cut`, without an incomplete last character."""
        rest = self._decoded() if self._tokens else ""
        incomplete = cut and rest.endswith(UNFINISHED) and not self._ends_with_literal()
        self._tokens = []
        return self._release(rest[:-1] if incomplete else rest, final=True)

    def _decoded(self, end: int | None = None) -> str:
        return self.tokenizer.decode(self._tokens[:end], skip_special_tokens=self.skip_special)

    def _ends_with_literal(self, end: int | None = None) -> bool:
        """Whether the last tokens encode the character U+FFFD itself."""
        tokens = self._literal
        return bool(tokens) and self._tokens[:end][-len(tokens) :] == tokens

    @cached_property
    def _literal(self) -> list[int]:
        """The tokens of U+FFFD itself."""
        return self.tokenizer.encode(UNFINISHED, add_special_tokens=False)

    def _release(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + new
        ends = [(self._end_of_call(held), None), *((held.find(text, self._first(text)), text) for text in self.stop)]
        found = [(end, text) for end, text in ends if end >= 0]
        if found:
            end, self.stop_string = min(found, key=lambda one: one[0])
            self.stopped = True
            final_text, self._held = held[:end], ""
        else:
            keep = 0 if final else self._possible_stop(held)
            final_text, self._held = held[: len(held) - keep], held[len(held) - keep :]
        if self.keeps:
            self.text += final_text
        self._exempt = max(0, self._exempt - len(final_text))
        return final_text

    def _first(self, mark: str) -> int:
        """Return where in the held text a text that ends the answer may begin."""
        return max(0, self._exempt - len(mark) + 1)

    def _end_of_call(self, held: str) -> int:
        """Return where in `held` the first call ends; -1 if there is none. What only looks like a call is text."""
        start = held.find(END, self._first(END)) if self._calls else -1
        while start >= 0:
            end = start + len(END)
            reader = CallReader(self._calls)
            reader.push(self.text + held[:end])
            reader.finish()
            if reader.count:
                return end
            start = held.find(END, end)
        return -1

    def _possible_stop(self, text: str) -> int:
        """Return the length of the longest suffix of `text` that may begin what ends the answer."""
        longest = max((len(mark) - 1 for mark in self._marks), default=0)
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(mark.startswith(text[-n:]) for mark in self._marks)), 0)
