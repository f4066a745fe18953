"""The engine: takes queries from any thread, and keeps the thread in which its loop answers them.

The thread starts with the first query, waits while there is nothing to do, and ends with `close` or with the engine. It
is not started anew for each query, because libraries set themselves up once for every thread.
"""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Collection

from mossvl import waits
from mossvl.engine.director import Director
from mossvl.engine.job import Job
from mossvl.engine.loop import Events, Loop
from mossvl.engine.timeline import Timeline
from mossvl.errors import EngineError, OptionError
from mossvl.forking import beside_engine, check_fork
from mossvl.forms.grammar import Grammars
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options import EngineConfig, GenerationOptions, SamplingParams
from mossvl.parallel.ranks import LeadingRanks
from mossvl.processing.processor import MossVLProcessor
from mossvl.progress import progress
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query
from mossvl.sources.files import Load
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Appended, Source

CLOSING_SECONDS = 2.0
WATCHED = ("cuda",)
"""Devices whose steps may hang, and end soon otherwise; on a CPU, a large one takes long."""
_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
"""Engines that may still run when the process ends."""


class Engine:
    """Answers queries with one model.

    Args:
        model: its weights are used where they are, not copied.
        config: see `EngineConfig`.

    Raises:
        EngineError: this process was forked from one that had computed before.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig | None = None) -> None:
        check_fork(model.device.type)
        self.model, self.config = model, config or EngineConfig()
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = model.config.text_config.eos_token_id if ends is None else ends
        self.ends = frozenset(ends if isinstance(ends, list | tuple) else [ends])
        self.loop = Loop(model, self.config)
        self.runner, self.scheduler, self.cache = self.loop.runner, self.loop.scheduler, self.loop.cache
        self.adapters = self.runner.executor.adapters
        self.grammars = Grammars(model.config.text_config.vocab_size, self.ends)
        self.media_memory = MediaMemory(self.config.media_cache)
        self.media_budget = Budget(self.config.media_bytes)
        self._serving = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed: threading.Thread | None = None
        _engines.add(self)
        if isinstance(model.ranks, LeadingRanks):
            model.ranks.processes.told.append(_telling(weakref.WeakMethod(self.loop.fail)))
        elif model.device.type in WATCHED:
            telling = _telling(weakref.WeakMethod(self.loop.fail))
            self.runner.executor.waits = waits.watched(lambda: telling(_hanging()))
        weakref.finalize(self, self.loop.events.put, None).atexit = False

    # --- from any thread -----------------------------------------------------------------------------------------

    def submit(
        self,
        query: Query,
        messages: list[Message],
        processor: MossVLProcessor,
        params: SamplingParams | None = None,
        whole_characters: bool = False,
        submitted: float | None = None,
    ) -> Handle:
        """Answer a query.

        Args:
            messages: what is asked, its session included.
            params: in place of the query's own.
            whole_characters: an answer that is cut within a character ends before it, not with U+FFFD (as published).
            submitted: when another process was given the query, in seconds of `time.monotonic`; by default, now.

        Raises:
            EngineError: the device is broken, and nothing will be answered any more; or the engine is being closed.
        """
        source = Load(query, messages, processor, self.media_memory, self.media_budget)
        calls, lora = query.ending_calls, query.lora
        return self.begin(
            source, query.generation, params, whole_characters, calls=calls, lora=lora, submitted=submitted
        )

    def begin(
        self,
        source: Source,
        options: GenerationOptions,
        params: SamplingParams | None = None,
        whole_characters: bool = False,
        open: bool = False,
        calls: Collection[str] = (),
        director: Director | None = None,
        pages: int = 0,
        lora: str | None = None,
        submitted: float | None = None,
    ) -> Handle:
        """Answer what comes from a source; as `submit`.

        Args:
            open: prompts will be appended (see `extend`); the query ends when it is cancelled.
            director: says what is appended to an open query, that of a live session.
            pages: that the session reserves.
            calls: functions of which one call ends an answer.
            lora: name of the adapter with which everything is computed; None for the model as it is.
            submitted: see `submit`.

        Raises:
            OptionError: there is no such adapter; an open query has several answers, stop strings, a least length or a
                form of its answer; or `logit_bias` or `stop_token_ids` has a token that the model does not know.
            SessionLimitError: no session more fits.
        """
        params = options if params is None else params
        many = params.n > 1 or params.prompt_logprobs is not None
        if open and (many or params.stop or params.min_tokens or not params.free):
            raise OptionError(
                "a query that prompts are appended to has one answer, no stop texts and no form, no min_tokens and no "
                "prompt_logprobs"
            )
        adapter = self.adapters.index(lora)
        known = self.model.config.text_config.vocab_size
        for name, tokens in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            if tokens and (largest := max(tokens)) >= known:
                raise OptionError(
                    f"{name} has the token {largest}, but the model knows {known}: ids are below that", option=name
                )
        handle = Handle(params, source.tokenizer, whole_characters, calls)
        form = params.form
        follower = None if form is None else self.grammars.follower(form, source.tokenizer, params.n)
        given = source, options, params, handle, self.ends, follower, Timeline(submitted)
        job = Job(*given, open=open, director=director, adapter=adapter)
        job.adapted_vision = self.adapters.sees(adapter)
        with self.loop.lock:
            self.loop.add(job, pages)
            if self._thread is None:
                arguments = weakref.ref(self), self.loop.events, self._closed
                self._thread = threading.Thread(target=_serve, args=arguments, name="mossvl-engine", daemon=True)
                self._thread.start()
        return handle

    def extend(self, handle: Handle, appended: Appended) -> None:
        """Append a prompt to an open query, from any thread; a query that has ended ignores it.

        Raises:
            ValueError: the query was not begun as an open one.
        """
        for job in list(self.loop.jobs):
            if job.handle is handle:
                self.loop.extend(job, appended)

    def wake(self) -> None:
        """Have directors asked now what their jobs do next."""
        self.loop.events.put(None)

    def close(self, timeout: float = 10.0) -> None:
        """Cancel all queries and end the thread; wait at most `timeout` seconds for its end.

        Queries are refused meanwhile. A query after `close` starts the engine again.
        """
        with self.loop.lock:
            self.loop.closing += 1
            thread = self._thread
            for job in list(self.loop.jobs):
                job.handle.cancel()
            if thread is not None:
                self.loop.events.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        with self.loop.lock:
            self.loop.closing -= 1
            if thread is not None and self._thread is thread:
                self._thread, self._closed = None, thread

    @property
    def active(self) -> int:
        """Number of queries that have not ended."""
        return len(self.loop.jobs)

    @property
    def broken(self) -> EngineError | None:
        """The error of every further query, once the device has failed."""
        return self.loop.broken

    def disown(self) -> None:
        """Make a copy of the engine in a forked process refuse queries, and end its handles there."""
        self.loop.broken = error = EngineError(
            "this engine belongs to the process that this one was forked from, and answers only there; start this "
            "process with multiprocessing's 'spawn', and load the model in it"
        )
        self.loop.lock, self._serving = threading.Lock(), threading.Lock()
        jobs, self.loop.jobs, self.loop.closing, self._thread = self.loop.jobs, [], 0, None
        for job in jobs:
            job.handle.disown(error)
            if job.director is not None:
                job.director.disown(error)

    def warm_up(self, shown: bool | None = None) -> None:
        """Compile kernels and capture CUDA graphs, with a progress bar on a terminal. The engine must be idle."""
        with progress(None, 0, shown is not False) as advance:
            self.runner.warm_up(lambda done, total: advance())

    def clear_caches(self) -> None:
        """Clear the prefix cache, the vision cache and the media cache, once running queries have ended.

        Raises:
            EngineError: live sessions are open, which end only when they are closed; or the engine has failed.
        """
        while not self._serving.acquire(timeout=0.05):
            if self.broken is not None:  # Maybe in a step that hangs.
                raise self.broken
            if sessions := sum(job.open for job in list(self.loop.jobs)):
                raise EngineError(
                    "caches cannot be cleared, as they must be once weights have changed, while live sessions are open "
                    f"({sessions}); close them first"
                )
        try:
            self.cache.clear()
            self.runner.clear()
            self.media_memory = MediaMemory(self.config.media_cache)
        finally:
            self._serving.release()

    # --- the thread ----------------------------------------------------------------------------------------------

    def serves(self, event: Callable[[], None] | None) -> bool:
        """Run an event and the loop until all queries have ended; return whether this thread is still the engine's.

        The lock keeps `clear_caches` out while queries run.
        """
        with self._serving:
            if event is not None:
                event()
            self.loop.run()
            return self._thread is threading.current_thread() and not self.loop.closing


def _serve(engine: "weakref.ref[Engine]", events: Events, before: threading.Thread | None) -> None:
    """The engine's thread: serves events; while it waits for one, it keeps nothing alive.

    Args:
        before: the engine's earlier thread, which may not have ended when the engine was closed. Only one thread at a
            time reads the events.
    """
    if before is not None:
        before.join()
    del before
    while True:
        event = events.get()
        running = engine()
        if running is None or not running.serves(event):
            return
        del event, running


def _telling(fail: "weakref.WeakMethod[Callable[[EngineError], None]]") -> Callable[[EngineError], None]:
    """Return what tells a loop that a rank has failed, or a step hangs, while there is the loop."""

    def told(error: EngineError) -> None:
        if (own := fail()) is not None:
            own(error)

    return told


def _hanging() -> EngineError:
    told = f"a step has not ended within {waits.STEP:.0f} seconds: the GPU hangs; end this process and start another"
    return EngineError(told)


def _disown() -> None:
    """In a forked process, disown all engines: their threads do not exist there."""
    for engine in list(_engines):
        if engine._thread is not None:
            beside_engine()
        engine.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


@atexit.register
def _close_engines() -> None:
    """End engines at exit: a thread that is killed within a computation would crash the process."""
    for engine in list(_engines):
        engine.close(CLOSING_SECONDS)
