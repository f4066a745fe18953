"""Answers of a given form: for every token, which ones may come next."""

import threading
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from mossvl.errors import OptionError


class Matcher:
    """One answer, as far as it goes, within its grammar.

    Args:
        grammar: as `SamplingParams.grammar` has it.

    Raises:
        OptionError: the grammar is too large for the tokenizer.
    """

    def __init__(self, grammar: str, tokenizer: LLTokenizer) -> None:
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if reason := self._matcher.get_error():
            raise OptionError(f"the form of the answer cannot be used: {reason.splitlines()[0]}")

    def copy(self) -> "Matcher":
        """Another answer at the same place of the same grammar."""
        copied = Matcher.__new__(Matcher)
        copied._matcher = self._matcher.deep_copy()
        return copied

    def allowed(self) -> bytearray:
        """A bit for each token, the lowest first."""
        return bytearray(self._matcher.compute_bitmask())

    def accept(self, token: int) -> str:
        """The token was drawn → why the answer cannot go on, in a line, if it cannot; else an empty text."""
        if self._matcher.consume_token(token):
            return ""
        return (self._matcher.get_error() or "no token may follow").splitlines()[0][:200]


class Grammars:
    """Makes matchers. A tokenizer is prepared once, which takes about a second for a large one.

    Args:
        vocab_size: of the model.
        ends: tokens that end an answer.
    """

    def __init__(self, vocab_size: int, ends: Collection[int]) -> None:
        self._vocab_size, self._ends = vocab_size, sorted(ends)
        self._prepared: WeakKeyDictionary[Any, LLTokenizer] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def matcher(self, grammar: str, tokenizer: Any) -> Matcher:
        with self._lock:
            prepared = self._prepared.get(tokenizer)
            if prepared is None:
                prepared = from_tokenizer(tokenizer, self._vocab_size, self._ends)
                self._prepared[tokenizer] = prepared
        return Matcher(grammar, prepared)


def allowed_tokens(matchers: Collection[Matcher], vocab_size: int) -> Tensor:
    """bool (matchers, vocab_size): which tokens may come next."""
    masks = torch.stack([torch.frombuffer(matcher.allowed(), dtype=torch.uint8) for matcher in matchers])
    bits = masks[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1)[:, :vocab_size].bool()
