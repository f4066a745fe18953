"""What a replica tells of its queries, in a compact form: the tokens of many answers in one message.

A message costs about a microsecond a token: numbers of all answers lie in three arrays, and only what a query tells
once (its facts, its end) and log-probabilities are objects.
"""

import pickle
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mossvl.errors import EngineError, MossVLError, ReplicaError, message_of
from mossvl.queries.handle import Handle
from mossvl.queries.results import Logprob, SeenMedium, Timings, TokenLogprobs

ASK_AGAIN = "; the same query can be asked again"
"""Advice of a ReplicaError."""
FINISHES = (None, "stop", "length")
"""Reasons with which an answer finishes while its query goes on, by their number in a message."""


@dataclass
class Growth:
    """What is new of one answer.

    Attributes:
        query: the query's number.
        answer: the answer's number among those to the query.
        tokens, times, logprobs: as in `Draft`; of each of the new tokens. Without log-probabilities, there are none.
    """

    query: int
    answer: int
    tokens: list[int]
    times: list[float]
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Facts:
    """What is known of a query's prompt; fields as in `Handle`."""

    query: int
    input_text: str
    prompt_tokens: int
    vision_tokens: int
    cached_tokens: int
    media: list[SeenMedium]


@dataclass
class End:
    """A query has ended; fields as in `Handle`."""

    query: int
    timings: Timings = field(default_factory=Timings)
    error: Exception | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


News = Growth | Facts | End


def pack(news: Iterable[News]) -> bytes:
    """Return a message; of one query, facts come before growths, and its end after them."""
    heads, tokens, times = array("I"), array("I"), array("d")
    logprobs: list[list[tuple[int, float, list[tuple[int, float]]]]] = []
    facts, ends = [], []
    for one in news:
        if isinstance(one, Growth):
            scored = bool(one.logprobs)
            finish = FINISHES.index(one.finish_reason)
            heads.extend((one.query, one.answer, len(one.tokens), 2 * finish + scored))
            tokens.extend(one.tokens)
            times.extend(one.times)
            if scored:
                logprobs.append([(told.token, told.logprob, told.top) for told in one.logprobs])
        elif isinstance(one, Facts):
            facts.append(one)
        else:
            ends.append(one)
    parts: Any = (heads.tobytes(), tokens.tobytes(), times.tobytes(), logprobs, facts, ends)
    return pickle.dumps(parts, 5)


def unpack(message: bytes) -> Iterator[News]:
    """Yield what a message tells: facts, growths, ends."""
    given, drawn, arrived, logprobs, facts, ends = pickle.loads(message)
    heads, tokens, times = array("I", given), array("I", drawn), array("d", arrived)
    scored, at = iter(logprobs), 0
    yield from facts
    for place in range(0, len(heads), 4):
        query, answer, count, code = heads[place : place + 4]
        told = [TokenLogprobs(*one) for one in next(scored)] if code % 2 else []
        part = slice(at, at + count)
        yield Growth(query, answer, tokens[part].tolist(), times[part].tolist(), told, FINISHES[code // 2])
        at += count
    yield from ends


class Followed:
    """A query whose handle grows in this process, and how much of it was told."""

    def __init__(self, query: int, handle: Handle) -> None:
        self.query, self.handle = query, handle
        self._facts: tuple[int, ...] = (0,) * 5
        self._tokens = [0] * len(handle.drafts)
        self._finished = [False] * len(handle.drafts)

    def news(self) -> Iterator[News]:
        """Yield what is new since the last call."""
        ended = self.handle.ended  # Before all else: what was there at the end is told with it.
        yield from self._new_facts()
        for answer in range(len(self.handle.drafts)):
            yield from self._growth(answer)
        if ended:
            handle = self.handle
            error = None if handle.error is None else sendable(handle.error)
            yield End(self.query, handle.timings, error, handle.prompt_logprobs)

    def _new_facts(self) -> Iterator[Facts]:
        handle = self.handle
        counts = handle.prompt_tokens, handle.vision_tokens, handle.cached_tokens
        known = *counts, len(handle.input_text), len(handle.media)
        if known != self._facts:
            self._facts = known
            yield Facts(self.query, handle.input_text, *counts, handle.media)

    def _growth(self, answer: int) -> Iterator[Growth]:
        # The engine adds a token, then its time, then its log-probabilities, and the reason to finish after the last.
        draft, told = self.handle.drafts[answer], self._tokens[answer]
        finish = None if self._finished[answer] else draft.finish_reason
        there = min(len(draft.times), len(draft.logprobs)) if draft.scored else len(draft.times)
        if there > told or finish:
            part = slice(told, there)
            yield Growth(self.query, answer, draft.tokens[part], draft.times[part], draft.logprobs[part], finish)
            self._tokens[answer], self._finished[answer] = there, bool(finish)


def take_in(handle: Handle, news: News) -> None:
    """Take what a replica tells of a query into its handle in this process; readers are woken by the caller."""
    match news:
        case Growth():
            draft = handle.drafts[news.answer]
            draft.tokens += news.tokens
            draft.times += news.times
            draft.logprobs += news.logprobs
            draft.finish_reason = news.finish_reason or draft.finish_reason
        case Facts():
            handle.input_text, handle.media = news.input_text, news.media
            handle.prompt_tokens, handle.vision_tokens = news.prompt_tokens, news.vision_tokens
            handle.cached_tokens = news.cached_tokens
        case End():
            handle.timings, handle.prompt_logprobs = news.timings, news.prompt_logprobs


def sendable(error: BaseException) -> Exception:
    """Return an error that can be pickled, without its traceback: that of a replica's engine is the replica's."""
    if isinstance(error, EngineError):
        return ReplicaError(str(error), advice=ASK_AGAIN)
    return error.plain() if isinstance(error, MossVLError) else MossVLError(message_of(error))
