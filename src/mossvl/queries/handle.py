"""Handle of a submitted query: stream its text, wait for its result, cancel it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mossvl.errors import GenerationCancelled, GenerationTimeout
from mossvl.options import SamplingParams
from mossvl.queries.listeners import call_all
from mossvl.queries.results import Answer, Logprob, Result, SeenMedium, Timings, TokenLogprobs, Usage
from mossvl.queries.silence import Silence
from mossvl.queries.text_stream import TextStream, Tokenizer
from mossvl.queries.waker import Waker

Scored = tuple[str, TokenLogprobs | None]
"""A piece of an answer's text, and the log-probabilities of the token that has made it certain."""


@dataclass
class Draft:
    """A growing answer: the engine's thread appends tokens, the reader's thread detokenises them."""

    text: TextStream
    whole_characters: bool = False
    """Whether an answer that is cut within a character ends before the character, instead of with U+FFFD."""
    scored: bool = False
    """Whether each token has log-probabilities."""
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Arrival of each token, in seconds of `time.monotonic`."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    _tokens_read: int = 0
    _characters_taken: int = 0
    _scores_taken: int = 0
    _ends: list[int] = field(default_factory=list)
    """Characters of the text that are certain after each token, if tokens are scored."""

    @property
    def unread(self) -> bool:
        """Whether `take` may return text."""
        return self._tokens_read < len(self.tokens) or self._characters_taken < len(self.text.text)

    def read(self, ended: bool) -> None:
        """Detokenise new tokens; with `ended`, release text that was held back, too."""
        # Read the reason before the tokens: the engine adds the last token first.
        final = ended or self.finish_reason is not None
        # The engine adds a token before its log-probabilities.
        new = self.tokens[self._tokens_read : len(self.logprobs) if self.scored else None]
        self._tokens_read += len(new)
        for tokens in [[token] for token in new] if self.scored else [new] if new else []:
            self.text.push(tokens)
            self._ends += [len(self.text.text)] if self.scored else []
        if final:
            self.text.finish(cut=self.whole_characters and self.finish_reason != "stop")

    def take(self, ended: bool) -> str:
        """Return the text since the last call that no later token can change."""
        self.read(ended)
        taken, self._characters_taken = self._characters_taken, len(self.text.text)
        return self.text.text[taken:]

    def take_scored(self, ended: bool) -> list[Scored]:
        """As `take`, but in pieces: the text of each token with its log-probabilities, then text without, if any."""
        at, seen = self._characters_taken, self._scores_taken
        self.take(ended)
        self._scores_taken = len(self._ends)
        pieces: list[Scored] = []
        for end, drawn in zip(self._ends[seen:], self.logprobs[seen : len(self._ends)], strict=True):
            pieces.append((self.text.text[at:end], drawn))
            at = end
        rest = self.text.text[at:]
        return [*pieces, (rest, None)] if rest else pieces


class Handle:
    """A submitted query: iterate over the handle for chunks of the (first) answer's text, or call `result`.

    Attributes:
        result_now: the result so far; complete once the query has ended.
    """

    def __init__(
        self,
        params: SamplingParams,
        tokenizer: Tokenizer,
        whole_characters: bool = False,
        calls: Collection[str] = (),
    ) -> None:
        self._text = partial(TextStream.of, tokenizer, params, calls)
        self._may_stop = bool(params.stop or calls)
        scored = params.logprobs is not None
        self.drafts = [Draft(self._text(), whole_characters, scored) for _ in range(params.n)]
        self.error: Exception | None = None
        self.input_text = ""
        self.prompt_tokens = self.vision_tokens = self.cached_tokens = 0
        self.media: list[SeenMedium] = []
        self.timings = Timings()
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self.ended = False
        self._cancel_requested = threading.Event()
        self._wants_logprobs = params.logprobs is not None
        self._changed = threading.Condition()
        self._text_lock = threading.Lock()
        self._listeners: list[Callable[[], object]] = []
        self._end_listeners: list[Callable[[], object]] = []

    # --- users ---------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel the query, from any thread; its result keeps the text so far."""
        self._cancel_requested.set()

    @property
    def cancel_requested(self) -> bool:
        return self._cancel_requested.is_set()

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the query's end, and return its result, which has the query's `error`, if any.

        Raises:
            GenerationTimeout: the query has not ended within `timeout` seconds; the query goes on.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, timeout):
                raise GenerationTimeout(f"the query has not ended within {timeout:g} seconds; it goes on")
        return self.result_now

    def result(self, timeout: float | None = None) -> Result:
        """As `wait`, but raise the query's error.

        Raises:
            GenerationTimeout: the query has not ended within `timeout` seconds, or has exceeded its own time limit.
            GenerationCancelled: the query was cancelled.
            MossVLError: the query has failed.
        """
        result = self.wait(timeout)
        if result.error is not None:
            raise result.error
        return result

    def chunks(self, poll: float | None = None) -> Iterator[str]:
        """Yield chunks of the (first) answer's text; with `poll`, an empty one after `poll` seconds without text."""
        draft = self.drafts[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.ended or draft.unread, poll)
                ended = self.ended
            chunk = self.take()
            if chunk or (poll is not None and not ended):
                yield chunk
            if ended:
                return

    def take(self, answer: int = 0) -> str:
        """Return the text of an answer since the last call that no later token can change."""
        with self._text_lock:
            return self.drafts[answer].take(self.ended)

    def take_scored(self, answer: int = 0) -> list[Scored]:
        """As `take`, in pieces: the text of each token with its log-probabilities."""
        with self._text_lock:
            return self.drafts[answer].take_scored(self.ended)

    def __iter__(self) -> Iterator[str]:
        """Yield chunks of the answer's text; raise the query's error. Leaving early cancels the query."""
        try:
            yield from self.chunks()
        finally:
            if not self.ended:
                self.cancel()
        if self.error is not None:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[str]:
        """As `__iter__`, for asyncio."""
        async with aclosing(self.changes()) as changes:
            async for _ in changes:
                if chunk := self.take():
                    yield chunk
        if self.error is not None:
            raise self.error

    def changes(self, poll: float | None = None) -> AsyncGenerator[None]:
        """Yield at once, after each change (or `poll` seconds without one), and at the query's end; for asyncio.

        Closing the generator early, as a cancelled task does, cancels the query.
        """
        return changes_of([self], poll)

    async def ending(self) -> Result:
        """As `wait`, for asyncio. Cancelling the task cancels the query."""
        ended = asyncio.Event()
        wake = partial(Waker.here().set, ended)
        self.when_ended(wake)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            self.forget(wake)
            self.cancel()
            raise
        return self.result_now

    def __await__(self) -> Generator[Any, None, Result]:
        """`await handle`: as `result`, for asyncio."""
        return self.succeeding().__await__()

    async def succeeding(self) -> Result:
        """As `result`, for asyncio. Cancelling the task cancels the query."""
        await self.ending()
        return self.result()

    @property
    def result_now(self) -> Result:
        with self._text_lock:
            for draft in self.drafts:
                draft.read(self.ended)
        reason = "" if self.error is None else "cancelled" if self.was_cancelled else "error"
        answers = [
            Answer(
                draft.text.text,
                list(draft.tokens),
                draft.finish_reason or reason,
                list(draft.logprobs) if self._wants_logprobs else None,
            )
            for draft in self.drafts
        ]
        return Result(
            answers, self.usage_now, self.timings, self.media, self.input_text, self.error, self.prompt_logprobs
        )

    @property
    def usage_now(self) -> Usage:
        """Token counts so far."""
        new = sum(len(draft.tokens) for draft in self.drafts)
        return Usage(self.prompt_tokens, self.vision_tokens, self.cached_tokens, new)

    @property
    def was_cancelled(self) -> bool:
        return isinstance(self.error, GenerationCancelled)

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener` now, and in the engine's thread after each change."""
        with self._changed:
            self._listeners.append(listener)
        listener()

    def when_ended(self, listener: Callable[[], object]) -> None:
        """Call `listener` once, in the engine's thread at the query's end, or now if the query has ended."""
        with self._changed:
            if not self.ended:
                self._end_listeners.append(listener)
                return
        listener()

    def forget(self, listener: Callable[[], object]) -> None:
        """Remove a listener."""
        with self._changed:
            for listeners in (self._listeners, self._end_listeners):
                if listener in listeners:
                    listeners.remove(listener)

    # --- the engine ----------------------------------------------------------------------------------------------

    def watch(self) -> TextStream | None:
        """Return a text stream in which the engine sees where an answer ends; None if no text of an answer ends it."""
        return self._text() if self._may_stop else None

    def changed(self) -> None:
        """Wake waiting threads, and call listeners."""
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        call_all(listeners)

    def disown(self, error: Exception) -> None:
        """End the handle's copy in a forked process, where holders of its locks do not exist."""
        self._changed, self._text_lock = threading.Condition(), threading.Lock()
        self._listeners, self._end_listeners = [], []
        self.end(error)

    def end(self, error: Exception | None) -> None:
        """End the query, with the error that it has failed with, if any; one that has ended stays as it is."""
        with self._changed:
            if self.ended:
                return
            self.error = error
            self.ended = True
            listeners = list(self._end_listeners)
        self.changed()
        call_all(listeners)


async def changes_of(handles: Sequence[Handle], poll: float | None = None, pause: float = 0.0) -> AsyncGenerator[None]:
    """As `Handle.changes`, for several queries: until all have ended, or one has failed, which cancels the others.

    Args:
        pause: see `Waker`.
    """
    changed = asyncio.Event()
    wake = partial(Waker.here(pause).set, changed)
    for handle in handles:
        handle.listen(wake)
    silence = None if poll is None else Silence(poll, changed.set)
    try:
        while True:
            changed.clear()
            ended = over(handles)
            yield
            if ended:
                return
            if silence is not None:
                silence.begin()
            await changed.wait()
    finally:
        if silence is not None:
            silence.end()
        for handle in handles:
            handle.forget(wake)
            if not handle.ended:
                handle.cancel()


def over(handles: Sequence[Handle]) -> bool:
    """Return whether all queries have ended, or one has failed."""
    return all(handle.ended for handle in handles) or any(handle.error is not None for handle in handles)
