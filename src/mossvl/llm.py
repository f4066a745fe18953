"""`MossVL`: a checkpoint and its engine, for Python programs; `Chat`: a conversation with it."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, overload

from mossvl.engine.engine import Engine
from mossvl.errors import InputError, OptionError, PromptError
from mossvl.live.options import LiveOptions
from mossvl.live.record import Recorder
from mossvl.live.recording import RecordedInbox, Recording
from mossvl.live.session import LiveSession
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.query import SessionQuery
from mossvl.options import SamplingParams
from mossvl.options.engine import EngineConfig
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.system_prompt import SystemPrompt, with_system_prompt
from mossvl.progress import progress as progress_bar
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query, QueryLike
from mossvl.queries.results import Result
from mossvl.tools.constraint import constrained


class MossVL:
    """MOSS-VL behind an engine: batched, cached, cancellable.

    A query is a text, or a dict with `prompt` (and `images`, `videos`) or `messages`, and options of its own:
    `media_kwargs`, `generate_kwargs`, `system_prompt`, … (see docs/offline.md). Any thread may call any method.

    Args:
        checkpoint_or_model: a folder, the name of a repository on the model hub, or a loaded model; by default
            mossvl-tiny, which is part of the package.
        processor: the processor of a loaded model.
        config: the engine's settings.
        options: the engine's settings one by one, in place of `config`.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        OptionError: an option is unknown or out of range.
        EngineError: this process was forked from one that had computed before.
    """

    def __init__(
        self,
        checkpoint_or_model: str | Path | MossVLLMHeadModel | None = None,
        processor: MossVLProcessor | None = None,
        config: EngineConfig | None = None,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise OptionError(f"give either config or {', '.join(options)}, not both")
        self.config = config or EngineConfig(**options)
        if self.config.lora:
            from mossvl.loading import adapter_folders

            self.config = replace(self.config, lora=adapter_folders(self.config.lora, checkpoint_or_model))
        if isinstance(checkpoint_or_model, MossVLLMHeadModel):
            if processor is None:
                raise OptionError("a loaded model needs its processor: MossVL(model, processor)")
            model = checkpoint_or_model
        else:
            from mossvl.loading import load

            model, loaded = load(
                checkpoint_or_model,
                self.config.device,
                self.config.dtype,
                quantization=self.config.quantization,
                tensor_parallel_size=self.config.tensor_parallel_size,
            )
            processor = processor or loaded
        self.model, self.processor = model, processor
        self.engine = Engine(model, self.config)

    @classmethod
    def of(cls, engine: Engine, processor: MossVLProcessor) -> Self:
        """Return one with an engine that there is already."""
        llm = cls.__new__(cls)
        llm.config, llm.model, llm.processor, llm.engine = engine.config, engine.model, processor, engine
        return llm

    # --- one query -----------------------------------------------------------------------------------------------

    def submit(
        self, query: QueryLike, params: SamplingParams | None = None, *, session: Sequence[Message] = ()
    ) -> Handle:
        """Submit a query.

        Args:
            params: in place of the query's `generate_kwargs`.
            session: earlier messages of the conversation.

        Returns:
            a handle: iterate it for text, ask it for its `result(timeout)`, `cancel()` it, or await it.

        Raises:
            InputError: the query is malformed, has unknown options, or is an error (see `QueryLike`). Errors of media
                are in the result.
            EngineError: the device has failed, or the engine is being closed.
        """
        if isinstance(query, InputError):
            raise query
        if params is not None and not isinstance(params, SamplingParams):
            raise OptionError(f"params={params!r:.100} must be SamplingParams, or in the query, as generate_kwargs")
        checked = query if isinstance(query, Query) else SessionQuery.from_dict(query)
        if checked.tools is not None:
            params = constrained(params or checked.generation, checked.tools, short=not self.processor.knows_tools)
        return self.engine.submit(checked, checked.messages(session), self.processor, params)

    def stream(self, query: QueryLike, params: SamplingParams | None = None) -> Handle:
        """Stream a query's answer: `for text in llm.stream(…)`, or `async for`. As `submit`."""
        return self.submit(query, params)

    def chat(self, system_prompt: str | None = None, params: SamplingParams | None = None, **chosen: Any) -> "Chat":
        """Begin a conversation; the prefix cache holds its earlier turns.

        Args:
            chosen: `thinking_mode`, `system_prompt_type` or `use_default_system_prompt`, for a fixed system prompt.

        Raises:
            OptionError: a choice, or the fixed system prompt that it names, is unknown.
        """
        return Chat(self, system_prompt, params, **chosen)

    # --- live ----------------------------------------------------------------------------------------------------

    def live(
        self,
        prompt: str = "",
        *,
        system_prompt: str | None = None,
        options: LiveOptions | None = None,
        prefill: Sequence[Mapping[str, str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        recorder: Recorder | None = None,
        **chosen: Any,
    ) -> LiveSession:
        """Begin a session that watches while it speaks: push frames, ask, and iterate over its events.

        Args:
            prompt, system_prompt, prefill, clock, recorder: see `LiveSession`.
            options: how the session watches and speaks.
            chosen: the options one by one, in place of `options`.

        Raises:
            CheckpointError: the checkpoint has no tokens for it.
            EngineError: the device has failed, or the engine is being closed.
            InputError: a text or an option cannot be used.
            SessionLimitError: no session more fits into the engine; it says how many do.
        """
        if options is not None and chosen:
            raise OptionError(f"give either options or {', '.join(chosen)}, not both")
        options = options or LiveOptions(**chosen)
        return LiveSession(
            self.engine,
            self.processor,
            prompt,
            system_prompt=system_prompt,
            options=options,
            prefill=prefill,
            clock=clock,
            recorder=recorder,
        )

    def replay(self, recording: Recording) -> LiveSession:
        """Begin a session that repeats a recorded one: `feed` it, in a thread, and iterate over its events.

        Raises:
            CheckpointError, EngineError, InputError: see `live`.
        """
        return LiveSession(
            self.engine,
            self.processor,
            prefill=recording.messages,
            options=recording.options,
            recorded=RecordedInbox(recording),
        )

    # --- many queries --------------------------------------------------------------------------------------------

    @overload
    def generate(  # type: ignore[overload-overlap]  # A text is an iterable of texts, too.
        self,
        queries: str | dict[str, Any],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        raise_on_error: bool = False,
    ) -> Result: ...

    @overload
    def generate(
        self,
        queries: Iterable[QueryLike],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        raise_on_error: bool = False,
    ) -> list[Result]: ...

    def generate(
        self,
        queries: str | dict[str, Any] | Iterable[QueryLike],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        raise_on_error: bool = False,
    ) -> Result | list[Result]:
        """Answer queries as a batch.

        Args:
            queries: a list of queries, or one query.
            params: one for all queries, or one for each; in place of the queries' `generate_kwargs`.
            progress: show a progress bar if stderr is a terminal; by default, for several queries.
            raise_on_error: raise the first error, instead of putting it into its query's result.

        Returns:
            a list of `Result`, in the order of the queries; for one query, its `Result`.
        """
        if isinstance(queries, str | dict):
            return self.generate([queries], params, progress=False, raise_on_error=raise_on_error)[0]
        if not isinstance(queries, Iterable):
            raise PromptError(f"queries={queries!r:.100} must be a list of queries, or one: a text or a dict")
        queries = list(queries)
        shown = len(queries) > 1 if progress is None else progress
        results: dict[int, Result] = {}
        with progress_bar(len(queries), 0, shown) as advance:
            for index, result in self.as_completed(zip(queries, each(params, queries), strict=True)):
                if result.error is not None and raise_on_error:
                    raise result.error
                results[index] = result
                advance()
        return [results[index] for index in range(len(queries))]

    def as_completed(self, queries: Iterable[tuple[QueryLike, SamplingParams | None]]) -> Iterator[tuple[int, Result]]:
        """Answer a stream of (query, params), which is read only as far ahead as keeps the engine full.

        Yields:
            (index of the query, result), in the order in which queries end. Leaving early cancels the other queries.
        """
        rest = enumerate(queries)
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        running: dict[int, Handle] = {}
        more = True
        try:
            while more or running:
                while more and len(running) < 2 * self.config.max_batch and ended.empty():
                    number, query = next(rest, (-1, None))
                    more = query is not None
                    if query is None:
                        break
                    try:
                        running[number] = self.submit(*query)
                    except InputError as error:
                        yield number, Result.of_error(error)
                    else:
                        running[number].when_ended(partial(ended.put, number))
                if running:
                    number = ended.get()
                    yield number, running.pop(number).result_now
        finally:
            for handle in running.values():
                handle.cancel()

    # --- asyncio -------------------------------------------------------------------------------------------------

    async def agenerate(
        self,
        queries: Sequence[QueryLike],
        params: SamplingParams | Sequence[SamplingParams | None] | None = None,
        *,
        raise_on_error: bool = False,
    ) -> list[Result]:
        """As `generate` with a list, for asyncio. Cancelling the task cancels the queries."""
        places = asyncio.Semaphore(2 * self.config.max_batch)

        async def answer(query: QueryLike, own: SamplingParams | None) -> Result:
            async with places:
                try:
                    handle = self.submit(query, own)
                except InputError as error:
                    if raise_on_error:
                        raise
                    return Result.of_error(error)
                result = await handle.ending()
                if result.error is not None and raise_on_error:
                    raise result.error
                return result

        tasks = [asyncio.ensure_future(answer(*one)) for one in zip(queries, each(params, queries), strict=True)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    # --- beginning and end ---------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Compile kernels and capture CUDA graphs now, instead of when a query first needs them."""
        self.engine.warm_up()

    def close(self) -> None:
        """Cancel all queries, and wait for their end and the engine's, for ten seconds at most.

        A query submitted meanwhile is an `EngineError`; a later one starts the engine again.
        """
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Chat:
    """A conversation of turns. A turn that fails or is cancelled leaves the conversation as it was.

    The conversation begins with `system_prompt`, or with the fixed one that `thinking_mode`, `system_prompt_type` and
    `use_default_system_prompt` choose (see `SystemPrompt`), unless its first turn has a system prompt of its own.

    The engine keeps no state of a conversation: the next turn finds the earlier ones in the prefix cache.

    Attributes:
        messages: all turns and answers so far.
        result: result of the last turn.
    """

    def __init__(
        self, llm: MossVL, system_prompt: str | None = None, params: SamplingParams | None = None, **chosen: Any
    ) -> None:
        self.llm, self.params = llm, params
        self.system = {"system_prompt": system_prompt, **chosen}
        SystemPrompt(**self.system).text(video=False)  # Check before the first turn.
        self.messages: list[Message] = []
        self.result: Result | None = None

    def ask(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Result:
        """Take a turn, and return its result.

        Args:
            query: further keys of the turn's query: `images`, `videos`, `media_kwargs`, `generate_kwargs`.

        Raises:
            MossVLError: the query is malformed or has failed.
        """
        checked, handle = self._begin(prompt, params, query)
        return self._end(checked, handle)

    def stream(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Iterator[str]:
        """As `ask`, but yield the answer in chunks; the turn counts once the last chunk was read."""
        checked, handle = self._begin(prompt, params, query)
        yield from handle
        self._end(checked, handle)

    async def aask(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Result:
        """As `ask`, for asyncio."""
        checked, handle = self._begin(prompt, params, query)
        await handle.ending()
        return self._end(checked, handle)

    async def astream(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> AsyncIterator[str]:
        """As `stream`, for asyncio."""
        checked, handle = self._begin(prompt, params, query)
        async for chunk in handle:
            yield chunk
        self._end(checked, handle)

    def reset(self) -> None:
        """Forget all turns."""
        self.messages = []

    def _begin(self, prompt: str, params: SamplingParams | None, query: dict[str, Any]) -> tuple[Query, Handle]:
        checked = SessionQuery.from_dict({"prompt": prompt, **with_system_prompt(query, self.system)})
        return checked, self.llm.submit(checked, params or self.params, session=self.messages)

    def _end(self, query: Query, handle: Handle) -> Result:
        self.result = handle.result()
        self.messages = query.session_after(self.messages, self.result.text)
        return self.result


def each(
    params: SamplingParams | Sequence[SamplingParams | None] | None, queries: Sequence[QueryLike]
) -> list[SamplingParams | None]:
    """Return parameters for each query, which are given for all queries or for each."""
    listed: list[SamplingParams | None] = (
        list(params) if isinstance(params, list | tuple) else [params] * len(queries)  # type: ignore[list-item]
    )
    if len(listed) != len(queries):
        raise OptionError(f"params has {len(listed)} entries for {len(queries)} queries")
    return listed
