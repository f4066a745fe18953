"""What users hold while an answer is generated, and what they get at the end."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mossvl.errors import GenerationCancelled, GenerationTimeout
from mossvl.options import SamplingParams
from mossvl.queries.results import Answer, Logprob, Result, SeenMedium, Timings, TokenLogprobs, Usage
from mossvl.queries.text_stream import TextStream
from mossvl.queries.waker import Waker

logger = logging.getLogger(__name__)


@dataclass
class Draft:
    """An answer that grows: tokens are added by the engine's thread, text is made by whoever reads it."""

    text: TextStream
    whole: bool = False
    """What is cut within a character ends before it, and not with U+FFFD."""
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each token came, in seconds of `time.monotonic`."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    _read: int = 0
    _taken: int = 0

    @property
    def unread(self) -> bool:
        """There is text that was not taken, or may be."""
        return self._read < len(self.tokens) or self._taken < len(self.text.text)

    def read(self, ended: bool) -> None:
        """Make text of the tokens that have come; with `ended`, of what was held back too."""
        final = ended or self.finish_reason is not None  # Asked first: the last token comes before the reason.
        new = self.tokens[self._read :]
        self._read += len(new)
        if new:
            self.text.push(new)
        if final:
            self.text.finish(cut=self.whole and self.finish_reason != "stop")

    def take(self, ended: bool) -> str:
        """The text that has become certain since the last call."""
        self.read(ended)
        taken, self._taken = self._taken, len(self.text.text)
        return self.text.text[taken:]


class Handle:
    """A query that was submitted. Iterate it for its text, piece by piece, or ask for its `result`.

    Attributes:
        result_now: everything known about the query; complete when it has ended.
    """

    def __init__(self, params: SamplingParams, tokenizer: Any, whole: bool = False) -> None:
        self.drafts = [Draft(TextStream.of(tokenizer, params), whole) for _ in range(params.n)]
        self.error: Exception | None = None
        self.input_text = ""
        self.prompt_tokens = self.vision_tokens = self.cached_tokens = 0
        self.media: list[SeenMedium] = []
        self.timings = Timings()
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self.ended = False
        self._cancelled = threading.Event()
        self._wants_logprobs = params.logprobs is not None
        self._changed = threading.Condition()
        self._reading = threading.Lock()
        self._listeners: list[Callable[[], object]] = []
        self._awaiting: list[Callable[[], object]] = []

    # --- users ---------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the query, from any thread; its result keeps the text so far."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def wait(self, timeout: float | None = None) -> Result:
        """What came of the query, its `error` included; waits for its end.

        Raises:
            GenerationTimeout: it has not ended within `timeout` seconds; it goes on all the same.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, timeout):
                raise GenerationTimeout(f"the query has not ended within {timeout:g} seconds; it goes on")
        return self.result_now

    def result(self, timeout: float | None = None) -> Result:
        """As `wait`, but raises what the query failed of.

        Raises:
            GenerationTimeout: it has not ended within `timeout` seconds, or ran into its own time limit.
            GenerationCancelled: it was cancelled.
            MossVLError: it could not be answered.
        """
        result = self.wait(timeout)
        if result.error is not None:
            raise result.error
        return result

    def chunks(self, poll: float | None = None) -> Iterator[str]:
        """Pieces of the (first) answer as they come; with `poll`, an empty one whenever there was none for so long."""
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
        """The text of an answer that has become certain since the last call."""
        with self._reading:
            return self.drafts[answer].take(self.ended)

    def __iter__(self) -> Iterator[str]:
        """Pieces of the answer as they come; raises what the query failed of. Leaving early cancels the query."""
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
        """Yields at once, whenever something has changed (or nothing has for `poll` seconds), and last when the query
        has ended; for asyncio. Closing it early, also by a cancelled task, cancels the query."""
        return changes_of([self], poll)

    async def ending(self) -> Result:
        """As `wait`, for asyncio. Cancelling the task cancels the query."""
        ended = asyncio.Event()
        tell = partial(Waker.here().set, ended)
        self.when_ended(tell)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            self.forget(tell)
            self.cancel()
            raise
        return self.result_now

    def __await__(self) -> Generator[Any, None, Result]:
        """`await handle`: the result, for asyncio; raises what the query failed of."""
        return self.succeeding().__await__()

    async def succeeding(self) -> Result:
        """As `result`, for asyncio. Cancelling the task cancels the query."""
        await self.ending()
        return self.result()

    @property
    def result_now(self) -> Result:
        with self._reading:
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
        new = sum(len(draft.tokens) for draft in self.drafts)
        usage = Usage(self.prompt_tokens, self.vision_tokens, self.cached_tokens, new)
        return Result(answers, usage, self.timings, self.media, self.input_text, self.error, self.prompt_logprobs)

    @property
    def was_cancelled(self) -> bool:
        return isinstance(self.error, GenerationCancelled)

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener`, in the engine's thread, whenever something has changed."""
        with self._changed:
            self._listeners.append(listener)
        listener()

    def when_ended(self, listener: Callable[[], object]) -> None:
        """Call `listener` once when the query has ended: in the engine's thread, or now if it has."""
        with self._changed:
            if not self.ended:
                self._awaiting.append(listener)
                return
        listener()

    def forget(self, listener: Callable[[], object]) -> None:
        """Call `listener` no more."""
        with self._changed:
            for listeners in (self._listeners, self._awaiting):
                if listener in listeners:
                    listeners.remove(listener)

    # --- the engine ----------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Tell everybody who waits."""
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        _call(listeners)

    def disown(self, error: Exception) -> None:
        """This is a copy in a forked process, where nobody goes on with it."""
        self._changed, self._reading = threading.Condition(), threading.Lock()
        self._listeners, self._awaiting = [], []
        self.end(error)

    def end(self, error: Exception | None) -> None:
        with self._changed:
            self.error = error
            self.ended = True
            awaiting = list(self._awaiting)
        self.changed()
        _call(awaiting)


async def changes_of(handles: Sequence[Handle], poll: float | None = None) -> AsyncGenerator[None]:
    """As `Handle.changes`, of several queries: until all have ended, or one has failed, which cancels the others."""
    news = asyncio.Event()
    tell = partial(Waker.here().set, news)
    for handle in handles:
        handle.listen(tell)
    try:
        while True:
            news.clear()
            ended = over(handles)
            yield
            if ended:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(poll):
                    await news.wait()
    finally:
        for handle in handles:
            handle.forget(tell)
            if not handle.ended:
                handle.cancel()


def over(handles: Sequence[Handle]) -> bool:
    """Whether all of these queries have ended, or one has failed."""
    return all(handle.ended for handle in handles) or any(handle.error is not None for handle in handles)


def _call(listeners: list[Callable[[], object]]) -> None:
    """Call listeners, which are others' code: what they raise is theirs, and ends nothing here."""
    for listener in listeners:
        try:
            listener()
        except Exception:
            logger.warning("a listener to an answer has failed", exc_info=True)
