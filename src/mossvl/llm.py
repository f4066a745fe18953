"""`MossVL`: a checkpoint and its engine, for Python programs."""

import asyncio
import queue
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from mossvl.chat import Chat
from mossvl.engine.engine import Engine
from mossvl.errors import InputError, OptionError, PromptError
from mossvl.live.options import LiveOptions
from mossvl.live.record import Recorder
from mossvl.live.recording import RecordedInbox, Recording
from mossvl.live.session import LiveSession
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.query import SessionQuery
from mossvl.options import SamplingParams
from mossvl.options.checks import whole
from mossvl.options.engine import EngineConfig, check_quantization
from mossvl.processing.processor import MossVLProcessor
from mossvl.progress import progress as progress_bar
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query, QueryLike
from mossvl.queries.results import Result
from mossvl.tools.constraint import constrained

if TYPE_CHECKING:
    from mossvl.replicas.pool import Pool


class MossVL:
    """MOSS-VL behind an engine: batched, cached, cancellable.

    A query is a text, or a dict with `prompt` (and `images`, `videos`) or `messages`, and options of its own:
    `media_kwargs`, `generate_kwargs`, `system_prompt`, … (see docs/offline.md). Any thread may call any method.

    Args:
        checkpoint_or_model: a folder, the name of a repository on the model hub, or a loaded model; by default
            mossvl-tiny, which is part of the package.
        processor: the processor of a loaded model.
        config: the engine's settings.
        data_parallel_size: replicas of the checkpoint, each an engine in a process of its own with a GPU of its own, or
            with its share of the CPU's threads; with 1, the engine is in this process. `config` is that of each.
        apart: have one replica, too, in a process of its own: a query that ends it fails as queries of replicas do.
        options: the engine's settings one by one, in place of `config`.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        OptionError: an option is unknown or out of range, or there are fewer GPUs than replicas.
        EngineError: this process was forked from one that had computed before, or a replica's process has died while it
            was loading.
    """

    def __init__(
        self,
        checkpoint_or_model: str | Path | MossVLLMHeadModel | None = None,
        processor: MossVLProcessor | None = None,
        config: EngineConfig | None = None,
        *,
        data_parallel_size: int = 1,
        apart: bool = False,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise OptionError(f"give either config or {', '.join(options)}, not both")
        self.config = config = config or EngineConfig(**options)
        self.data_parallel_size = whole("data_parallel_size", data_parallel_size)
        if self.config.lora:
            from mossvl.loading import adapter_folders

            self.config = replace(self.config, lora=adapter_folders(self.config.lora, checkpoint_or_model))
        if isinstance(checkpoint_or_model, MossVLLMHeadModel):
            if processor is None:
                raise OptionError("a loaded model needs its processor: MossVL(model, processor)")
            if self.data_parallel_size > 1 or apart:
                raise OptionError("replicas load a checkpoint, each its own: give its folder or name, not a model")
            model, self.processor = checkpoint_or_model, processor
        elif self.data_parallel_size > 1 or apart:
            self._start_replicas(checkpoint_or_model, processor)
            return
        else:
            from mossvl.loading import load

            model, loaded = load(
                checkpoint_or_model,
                config.device,
                config.dtype,
                quantization=config.quantization,
                tensor_parallel_size=config.tensor_parallel_size,
            )
            self.processor = processor or loaded
        self._answering: Engine | Pool = Engine(model, self.config)

    def _start_replicas(self, checkpoint: str | Path | None, processor: MossVLProcessor | None) -> None:
        from mossvl.checkpoints.default import tell_default
        from mossvl.loading import folder_of, read_processor, resolve_device, resolve_dtype
        from mossvl.replicas.pool import Pool

        config, target = self.config, resolve_device(self.config.device)  # Refused before processes are started.
        resolve_dtype(config.dtype, target)
        check_quantization(config.quantization, target.type)
        folder = folder_of(checkpoint)
        self.processor = processor or read_processor(folder)
        self._answering = pool = Pool(str(folder), self.processor, config, self.data_parallel_size)
        weakref.finalize(self, pool.close).atexit = False
        tell_default(checkpoint)

    @classmethod
    def of(cls, engine: Engine, processor: MossVLProcessor) -> Self:
        """Return one with an engine that there is already."""
        llm = cls.__new__(cls)
        llm.config, llm.processor, llm._answering = engine.config, processor, engine
        llm.data_parallel_size = 1
        return llm

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            OptionError: there are replicas, whose engines are in other processes.
        """
        if isinstance(self._answering, Engine):
            return self._answering
        given = "apart=True" if self.data_parallel_size == 1 else f"data_parallel_size={self.data_parallel_size}"
        raise OptionError(
            f"{given} has its engines and models in processes of their own, where they answer queries; for live "
            "sessions, or to use them as objects, make a MossVL without data_parallel_size and apart"
        )

    @property
    def model(self) -> MossVLLMHeadModel:
        """The model that the engine runs.

        Raises:
            OptionError: as for `engine`.
        """
        return self.engine.model

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
            raise OptionError("{params=} must be SamplingParams; or give generate_kwargs", given={"params": params})
        checked = query if isinstance(query, Query) else SessionQuery.from_dict(query)
        if checked.tools is not None:
            params = constrained(params or checked.generation, checked.tools, short=not self.processor.knows_tools)
        return self._answering.submit(checked, checked.messages(session), self.processor, params)

    def stream(self, query: QueryLike, params: SamplingParams | None = None) -> Handle:
        """Stream a query's answer: `for text in llm.stream(…)`, or `async for`. As `submit`."""
        return self.submit(query, params)

    def chat(self, system_prompt: str | None = None, params: SamplingParams | None = None, **chosen: Any) -> Chat:
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
            InputError: a text or an option cannot be used, or there are replicas.
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

    @property
    def _ahead(self) -> int:
        """Queries that are submitted at a time: as many as run, and as many again."""
        return 2 * self.config.max_batch * self.data_parallel_size

    def as_completed(
        self, queries: Iterable[tuple[QueryLike, SamplingParams | None]], most: int | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Answer a stream of (query, params), which is read only as far ahead as keeps the engine full.

        Args:
            most: queries that are asked at a time; by default twice as many as the engine runs.

        Yields:
            (index of the query, result), in the order in which queries end. Leaving early cancels the other queries.
        """
        rest = enumerate(queries)
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        running: dict[int, Handle] = {}
        more = True
        try:
            while more or running:
                while more and len(running) < (most or self._ahead) and ended.empty():
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
        places = asyncio.Semaphore(self._ahead)

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
        self._answering.warm_up()

    def close(self) -> None:
        """Cancel all queries, and wait for their end and the engine's, for ten seconds at most.

        A query submitted meanwhile is an `EngineError`; a later one starts the engine again. Replicas are ended, and
        are not started again.
        """
        self._answering.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
