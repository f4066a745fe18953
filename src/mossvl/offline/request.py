"""A query on its way: its limits, its media, its tokens, its text."""

import threading
import time
from collections.abc import Callable, Iterator
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
from mossvl.offline.ahead import Ahead
from mossvl.offline.query import Message, Query, media_of
from mossvl.offline.text_stream import TextStream
from mossvl.options import GenerationOptions
from mossvl.processing.processor import MossVLProcessor, PlannedPrompt
from mossvl.processing.prompt import check_messages


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
        self._room = query.generation.max_new_tokens
        self._loading: Ahead | None = None
        self._deadline = float("inf")
        self._patience = float("inf")
        self._processors = _logits_processors(query.generation)
        self._generator: torch.Generator | None = None

    # --- limits --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Called at every step.

        Raises:
            GenerationCancelled: the request was cancelled.
            GenerationTimeout: its time is over.
        """
        self._interrupted()
        if self.cancelled.is_set():
            raise GenerationCancelled("cancelled before the answer was complete")
        if time.monotonic() > self._deadline:
            raise GenerationTimeout(
                f"the query took longer than its timeout of {self.query.generation.timeout:g} seconds"
            )

    @property
    def was_cancelled(self) -> bool:
        return isinstance(self.error, GenerationCancelled)

    @property
    def finish_reason(self) -> str:
        """Why the answer ended: "stop" (by itself or at a stop text), "length", "cancelled" or "error"."""
        if self.error is not None:
            return "cancelled" if self.was_cancelled else "error"
        return "length" if len(self.tokens) >= self._room and not self.text.stopped else "stop"

    # --- media ---------------------------------------------------------------------------------------------------

    def start(self, context: int) -> None:
        """Begin to load, in a thread; the query's time-out counts from here."""
        if self.query.generation.timeout is not None:
            self._deadline = time.monotonic() + self.query.generation.timeout
        self._be_patient()

        def work(stop: threading.Event) -> Iterator[Any]:
            with ExitStack() as stack:
                messages = check_messages(self.messages)
                self.input_text = text = self.processor.render(messages)
                planned = self.processor.plan(text, *media_of(messages), self.query.media, stack)
                self._check_length(planned, context)
                self.planned = planned
                frames = self.query.generation.vision_chunked_length
                yield from self.processor.pixel_chunks(planned.plans, frames, stop)

        self._loading = Ahead(work)

    @property
    def loaded(self) -> bool:
        """Whether all media were taken."""
        return self._loading is not None and self._loading.exhausted

    def take(self, seconds: float) -> tuple[Tensor, Tensor] | None:
        """Some frames as (uint8 patches, grid_thw), or None if there are none within `seconds`.

        Raises:
            InputError: the media or the prompt cannot be used.
            GenerationTimeout: nothing has come for as long as `MediaLimits.timeout`.
        """
        assert self._loading is not None
        item = self._loading.take(seconds)
        if item is not None:
            self._be_patient()
        elif time.monotonic() > self._patience:
            limit = self.processor.limits.timeout
            raise GenerationTimeout(f"loading gave nothing for {limit:g} seconds; raise MediaLimits.timeout")
        return item

    def close(self) -> None:
        """Let the thread that loads media end, if there still is one."""
        if self._loading is not None:
            self._loading.close()

    def _be_patient(self) -> None:
        # What loads media keeps to the same limit and says more; this is for what does not come back at all.
        self._patience = time.monotonic() + 1.1 * self.processor.limits.timeout

    def _check_length(self, planned: PlannedPrompt, context: int) -> None:
        if len(planned.input_ids) >= context:
            raise ContextLengthError(
                f"the prompt has {len(planned.input_ids)} tokens, but the context is {context}, answer included; "
                "shorten the text, or lower max_frames or video_fps"
            )
        self._room = min(self._room, context - len(planned.input_ids))

    # --- tokens --------------------------------------------------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        return 0 if self.planned is None else len(self.planned.input_ids)

    def choose(self, logits: Tensor) -> int:
        """The next token, from its logits (vocab,).

        Raises:
            MossVLError: the logits are not numbers.
        """
        options = self.query.generation
        seen = torch.empty(1, 0, dtype=torch.long, device=logits.device)
        if options.repetition_penalty != 1.0:
            assert self.planned is not None
            seen = torch.cat((self.planned.input_ids, torch.tensor(self.tokens, dtype=torch.long)))[None].to(
                seen.device
            )
        scores = self._processors(seen, logits[None].float())[0]
        if not torch.isfinite(scores.max()):  # also: drawing from NaN would break the GPU for the whole process
            raise MossVLError("the model's output is not a number; check its weights and dtype")
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


def _logits_processors(options: GenerationOptions) -> LogitsProcessorList:
    """What becomes of logits before a token is chosen."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if not options.greedy:
        processors.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            processors.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            processors.append(TopPLogitsWarper(options.top_p))
    return processors


def message_of(error: BaseException) -> str:
    """What to tell a user: the message of an expected error, and the type too of an unexpected one."""
    return str(error) if isinstance(error, MossVLError) else f"{type(error).__name__}: {error}"
