"""A query on its way: its limits, its media, its tokens, its text."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mossvl.errors import ContextLengthError, GenerationCancelled, GenerationTimeout, MossVLError
from mossvl.offline.query import Message, Query, media_of
from mossvl.offline.text_stream import TextStream
from mossvl.processing.processor import MossVLProcessor, PlannedPrompt

POLL_SECONDS = 0.05
"""How often a wait looks whether it should go on."""


class Request:
    """One query being answered.

    Attributes:
        cancelled: set it, from any thread, to end this request alone.
        error: why it failed, if it did.
        input_text: the prompt as rendered, once that is known.
        planned: tokens and media of the prompt, once they are known; its media are closed when the request has ended.
    """

    def __init__(
        self,
        index: int,
        query: Query,
        messages: list[Message],
        processor: MossVLProcessor,
        interrupted: Callable[[], None] = lambda: None,
    ) -> None:
        self.index = index
        self.query = query
        self.messages = messages
        self.processor = processor
        self.cancelled = threading.Event()
        self.error: Exception | None = None
        self.input_text = ""
        self.planned: PlannedPrompt | None = None
        self.tokens: list[int] = []
        self.text = TextStream(processor.tokenizer, query.generation.stop)
        self._interrupted = interrupted
        timeout = query.generation.timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._room = query.generation.max_new_tokens
        self._stop_loading = threading.Event()
        self._generator: torch.Generator | None = None

    def check(self) -> None:
        """Called at every step.

        Raises:
            GenerationCancelled: the request was cancelled.
            GenerationTimeout: its time is over.
        """
        self._interrupted()
        if self.cancelled.is_set():
            raise GenerationCancelled(f"query {self.index} was cancelled")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise GenerationTimeout(
                f"query {self.index} took longer than its timeout of {self.query.generation.timeout:g} seconds"
            )

    def load(self, device: torch.device, dtype: torch.dtype, context: int) -> Generator[Any]:
        """Open and decode the media in a thread of its own, ahead of whoever iterates.

        Yields:
            first the `PlannedPrompt`, then its media as (pixel_values, grid_thw), some frames at a time.

        Raises:
            InputError: the media or the prompt cannot be used.
        """
        frames = self.query.generation.vision_chunked_length

        def work() -> Iterator[Any]:
            with ExitStack() as stack:
                text = self.processor.render(self.messages)
                self.input_text = text
                planned = self.processor.plan(text, *media_of(self.messages), self.query.media, stack)
                self._check_length(planned, context)
                self.planned = planned
                yield planned
                yield from self.processor.pixel_chunks(planned.plans, frames, device, dtype, self._stop_loading)

        try:
            yield from ahead(work, self.check, self._stop_loading)
        finally:
            self.close()

    def close(self) -> None:
        """Let the thread that loads media end, if there still is one."""
        self._stop_loading.set()

    def _check_length(self, planned: PlannedPrompt, context: int) -> None:
        if len(planned.input_ids) >= context:
            raise ContextLengthError(
                f"the prompt has {len(planned.input_ids)} tokens, but the context is {context}, answer included; "
                "shorten the text, or lower max_frames or video_fps"
            )
        self._room = min(self._room, context - len(planned.input_ids))

    def choose(self, logits: Tensor) -> int:
        """The next token, from its logits (vocab,)."""
        options = self.query.generation
        processors = LogitsProcessorList()
        if options.repetition_penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if not options.greedy:
            processors.append(TemperatureLogitsWarper(options.temperature))
            if options.top_k:
                processors.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                processors.append(TopPLogitsWarper(options.top_p))
        assert self.planned is not None
        seen = torch.cat((self.planned.input_ids, torch.tensor(self.tokens, dtype=torch.long))).to(logits.device)
        scores = processors(seen[None], logits[None].float())[0]
        if options.greedy:
            return int(scores.argmax())
        if self._generator is None and options.seed is not None:
            self._generator = torch.Generator(logits.device).manual_seed(options.seed)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))

    def accept(self, token: int, end_tokens: set[int]) -> tuple[str, bool]:
        """Add a token → the text that became certain, and whether the answer is complete."""
        if token in end_tokens:
            return self.text.finish(), True
        self.tokens.append(token)
        chunk = self.text.push(token)
        if self.text.stopped:
            return chunk, True
        if len(self.tokens) >= self._room:
            return chunk + self.text.finish(), True
        return chunk, False

    @property
    def prompt_tokens(self) -> int:
        return 0 if self.planned is None else len(self.planned.input_ids)

    @property
    def was_cancelled(self) -> bool:
        return isinstance(self.error, GenerationCancelled)

    @property
    def finish(self) -> str:
        """Why the answer ended: "stop" (by itself or at a stop text), "length", "cancelled" or "error"."""
        if self.error is not None:
            return "cancelled" if self.was_cancelled else "error"
        return "length" if len(self.tokens) >= self._room and not self.text.stopped else "stop"


def ahead(
    work: Callable[[], Iterator[Any]], check: Callable[[], None], stop: threading.Event, items: int = 1
) -> Iterator[Any]:
    """Run an iterator in a daemon thread, at most `items` ahead; `check` is called while waiting and may raise.

    Whatever the iterator raises is raised here. Setting `stop` lets the thread end as soon as it yields next: nobody
    waits for it, so that a source that hangs holds up nothing but itself.
    """
    results: queue.Queue[tuple[str, Any]] = queue.Queue(items)

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                results.put((kind, value), timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def run() -> None:
        try:
            iterator = work()
            for item in iterator:
                put("item", item)
                if stop.is_set():
                    iterator.close()  # type: ignore[attr-defined]
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    threading.Thread(target=run, name="mossvl-media", daemon=True).start()
    while True:
        try:
            kind, value = results.get(timeout=POLL_SECONDS)
        except queue.Empty:
            check()
            continue
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value


def message_of(error: BaseException) -> str:
    """What to tell a user: the message of an expected error, and the type too of an unexpected one."""
    return str(error) if isinstance(error, MossVLError) else f"{type(error).__name__}: {error}"
