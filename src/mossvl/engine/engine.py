"""The engine: takes queries from any thread, loads their media, runs steps, hands tokens out.

One thread runs the loop. It starts with the first query, waits while there is nothing to do, and ends with `close` or
with the engine. (It is not started anew for each query, because libraries set themselves up once for every thread.) All
state belongs to that thread; others reach it through an inbox.
"""

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from traceback import clear_frames

import torch

from mossvl.device.budget import budget_for
from mossvl.device.runner import Pending, Runner
from mossvl.device.sampler import NOT_A_NUMBER
from mossvl.engine.job import Job
from mossvl.engine.prompts import build_prompt
from mossvl.errors import ContextLengthError, EngineError, MossVLError, PromptError, ResourceError
from mossvl.forms.grammar import Grammars
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options import GenerationOptions, SamplingParams
from mossvl.options.engine import EngineConfig
from mossvl.processing.processor import MossVLProcessor
from mossvl.progress import progress
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query
from mossvl.queries.results import TokenLogprobs
from mossvl.scheduling.pages import PageCache
from mossvl.scheduling.prompt import Prompt
from mossvl.scheduling.request import Request
from mossvl.scheduling.scheduler import Plan, Scheduler
from mossvl.sources.files import Load
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Event, Frame, Loaded, Planned, Source, Stalled

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 2.0
_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
"""Those that may still run when the process ends."""

IDLE_SECONDS = 0.02
"""How long the loop waits for news before it looks at deadlines again."""


Inbox = queue.SimpleQueue[Callable[[], None] | None]
"""What others want of the engine's thread; None makes it look whether it is to end."""


class Engine:
    """Answers queries with one model.

    Args:
        model: its weights are used where they are, not copied.
        config: see `EngineConfig`.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig | None = None) -> None:
        self.model, self.config = model, config or EngineConfig()
        budget = budget_for(self.config, model)
        self.runner = Runner(model, self.config, budget)
        self.cache = PageCache(self.runner.pool.num_pages, self.config.prefix_cache)
        self.scheduler = Scheduler(self.config, self.cache, self.runner.pool.groups, self.runner.vision_cache, budget)
        self.memory = MediaMemory(self.config.media_cache)
        self.budget = Budget(self.config.media_bytes)
        self.broken: EngineError | None = None
        self._jobs: list[Job] = []
        self._to_load: deque[Job] = deque()
        self._to_follow: list[Job] = []
        self._inbox: Inbox = queue.SimpleQueue()
        self._lock, self._serving = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._set_up_in: threading.Thread | None = None
        self._expected = 0
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = model.config.text_config.eos_token_id if ends is None else ends
        _engines.add(self)
        weakref.finalize(self, self._inbox.put, None).atexit = False
        self._ends = frozenset(ends if isinstance(ends, list | tuple) else [ends])
        self.grammars = Grammars(model.config.text_config.vocab_size, self._ends)

    # --- from any thread -----------------------------------------------------------------------------------------

    def submit(
        self,
        query: Query,
        messages: list[Message],
        processor: MossVLProcessor,
        params: SamplingParams | None = None,
        whole: bool = False,
    ) -> Handle:
        """Answer a query.

        Args:
            messages: what is asked, its session included.
            params: in place of the query's own.
            whole: an answer that is cut within a character ends before it; otherwise with U+FFFD, as published.

        Raises:
            EngineError: the device is broken; nothing will be answered any more.
        """
        source = Load(query, messages, processor, self.memory, self.budget)
        return self.begin(source, query.generation, params, whole)

    def begin(
        self,
        source: Source,
        options: GenerationOptions,
        params: SamplingParams | None = None,
        whole: bool = False,
    ) -> Handle:
        """Answer what comes from a source; as `submit`."""
        params = options if params is None else params
        handle = Handle(params, source.tokenizer, whole)
        form = params.grammar
        follower = None if form is None else self.grammars.follower(form, source.tokenizer, params.n)
        job = Job(source, options, params, handle, follower)
        with self._lock:
            if self.broken is not None:
                raise self.broken
            self._expected += 1
            self._handles.add(handle)
            self._inbox.put(lambda: self._receive(job))
            if self._thread is None:
                arguments = weakref.ref(self), self._inbox
                self._thread = threading.Thread(target=_serve, args=arguments, name="mossvl-engine", daemon=True)
                self._thread.start()
        return handle

    def close(self, timeout: float = 10.0) -> None:
        """Cancel everything that has not ended, and end the thread; waits for that, at most `timeout` seconds.

        An engine that is asked again after that works again.
        """
        deadline = time.monotonic() + timeout
        while self._expected and self.broken is None and time.monotonic() < deadline:
            for job in list(self._jobs):
                job.handle.cancel()
            time.sleep(IDLE_SECONDS / 4)
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._inbox.put(None)
        if thread is not None:
            thread.join(max(0, deadline - time.monotonic()))

    @property
    def active(self) -> int:
        """Queries that have not ended."""
        return self._expected

    def disown(self) -> None:
        """This is a copy of the engine in a forked process, where it answers nothing."""
        self.broken = EngineError(
            "this engine belongs to the process that this one was forked from, and answers only there; start this "
            "process with multiprocessing's 'spawn', and load the model in it"
        )
        self._lock, self._serving = threading.Lock(), threading.Lock()
        self._thread, self._expected = None, 0
        for handle in list(self._handles):
            if not handle.ended:
                handle.disown(self.broken)

    def warm_up(self, shown: bool | None = None) -> None:
        """Compile kernels and capture graphs now, with a progress bar on a terminal; for an idle engine."""
        with progress(None, 0, shown is not False) as advance:
            self.runner.warm_up(lambda done, total: advance())

    def clear_caches(self) -> None:
        """Forget what was computed before: kept blocks, encoded frames, digests. Waits until what runs has ended."""
        with self._serving:
            self.cache.clear()
            self.runner.clear()
            self.memory = MediaMemory(self.config.media_cache)

    # --- the loop ------------------------------------------------------------------------------------------------

    def serves(self, event: Callable[[], None] | None) -> bool:
        """Take in an event and work until there is nothing left to do → whether this thread is still the engine's.

        The lock is for the moment in which a closed engine is asked again while its old thread has not quite ended.
        """
        with self._serving:
            if event is not None:
                event()
            self._run()
            return self._thread is threading.current_thread()

    def _run(self) -> None:
        """Decide, run, take in what was drawn: on a GPU that of the step before, while the new one runs."""
        pending: Pending | None = None
        try:
            if self._set_up_in is not threading.current_thread():
                self.runner.set_up()
                self._set_up_in = threading.current_thread()
            while self._jobs or pending is not None:
                self._check()
                plan = self.scheduler.plan()
                self._follow()
                for request, frame in plan.missing:
                    self._load_again(request, frame)
                drawn = None
                if plan:
                    try:
                        drawn = self._launch(plan)
                    except Exception as error:
                        logger.warning("a step has failed", exc_info=error)
                        self._accept(pending)
                        pending = None
                        self._launch_apart(plan, error)
                if self.runner.overlaps:
                    drawn, pending = pending, drawn
                self._accept(drawn)
                idle = not plan and drawn is None
                self._read_inbox(wait=idle and bool(self._jobs))
        except BaseException as error:
            logger.exception("the engine has failed")
            self._break(error)

    def _launch_apart(self, plan: Plan, error: Exception) -> None:
        """After a step that has failed: once more, each request alone, so that it costs those that fail by themselves.

        The tokens of the step before are known by now.
        """
        failed = self._failure(error)
        apart = plan.apart()
        for request, own in apart.items():
            if request.ended:
                continue
            if len(apart) > 1:
                if not self._has_pixels(own):
                    own = Plan(copies=own.copies)  # Its frames are planned again, once they are loaded again.
                try:
                    self.runner.recall(request)
                    self._accept(self._launch(own))
                    continue
                except Exception as again:
                    failed = self._failure(again)
            self._end(request.owner, failed)

    def _failure(self, error: Exception) -> MossVLError:
        """What requests failed of that made a step fail; what the step held of the device's memory is freed.

        Raises:
            Exception: the device has failed.
        """
        clear_frames(error.__traceback__)
        if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.runner.check_device()
        return failure(error)

    def _has_pixels(self, plan: Plan) -> bool:
        """Frames that were to come from the vision cache may have been evicted by the step that failed."""
        frames = [(part.request, frame) for part in plan.frames for frame in range(part.start, part.stop)]
        return all(
            frame in request.pixels or request.digests[frame] in self.runner.vision_cache for request, frame in frames
        )

    def _launch(self, plan: Plan) -> Pending:
        """Begin a step.

        Raises:
            Exception: it has failed; nothing of it counts.
        """
        pending = self.runner.launch(plan)
        self.scheduler.launched(plan)
        now = time.monotonic()
        job: Job
        for part in plan.frames:
            job = part.request.owner
            if self.runner.vision_watch not in job.clock.vision and self.runner.vision_watch is not None:
                job.clock.vision.append(self.runner.vision_watch)
        for request in plan.requests:
            # Encoded now, or found in the cache: their pixels are of no more use.
            for frame in [frame for frame in request.pixels if frame < request.encoded]:
                request.owner.use_up(request, frame)
            if request.owner.clock.admitted is None:
                request.owner.clock.admitted = now
        return pending

    def _read_inbox(self, wait: bool) -> None:
        """Take in what has come; with `wait`, wait a moment for something."""
        try:
            event = self._inbox.get(block=wait, timeout=IDLE_SECONDS)
            while True:
                if event is not None:
                    event()
                event = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _check(self) -> None:
        """End what was cancelled or takes too long; begin to load what can be."""
        now = time.monotonic()
        for job in list(self._jobs):
            if (reason := job.reason_to_end(now)) is not None:
                self._end(job, reason)
        busy = sum(job.loading for job in self._jobs)
        while self._to_load and busy < self.config.media_workers:
            job = self._to_load.popleft()
            if not job.ended:
                busy += 1
                self._load(job)

    def _receive(self, job: Job) -> None:
        self._jobs.append(job)
        self._to_load.append(job)
        if job.follower is not None:
            self._to_follow.append(job)

    # --- forms ---------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Begin to find out which tokens may come next in answers that are admitted: a process each, and not for all
        that wait."""
        for job in [one for one in self._to_follow if one.ended or any(request.slot >= 0 for request in one.requests)]:
            self._to_follow.remove(job)
            if not job.ended:
                self._start_following(job)

    def _start_following(self, job: Job) -> None:
        assert job.follower is not None
        job.follower.start(lambda *told: self._inbox.put(lambda: self._form(job, *told)))

    def _form(self, job: Job, number: int, mask: bytes, error: MossVLError | None) -> None:
        if job.follower is None or job.ended:
            return
        job.follower.matchers[number].mask = mask
        if error is not None:
            self._end(job, error)

    # --- media ---------------------------------------------------------------------------------------------------

    def _load(self, job: Job, first: int | None = None) -> None:
        """Begin to load a job's media, or only its frames from `first` on, once more."""
        if not job.loading and not job.ended:
            job.loading = True
            job.be_patient()
            job.source.start(lambda event: self._inbox.put(lambda: self._media(job, event)), first)

    def _load_again(self, request: Request, frame: int) -> None:
        """Load pixels from a frame on that a request lacks, unless they are still to come."""
        job: Job = request.owner
        if job.loading:
            job.give_up(request, frame)
        self._load(job, frame)

    def _media(self, job: Job, event: Event) -> None:
        if job.ended:
            if isinstance(event, Frame):
                job.source.release(event.patches)
            return
        job.be_patient()
        try:
            match event:
                case Planned():
                    job.plan(event, *self._prompt_of(event, job.params.max_new_tokens))
                case Frame():
                    job.take(event)
                case Stalled():
                    job.patience = float("inf")
                case Loaded():
                    job.loading = False
                    if event.error is not None:
                        raise event.error
            if isinstance(event, Stalled | Loaded) or job.may_begin:
                self._submit(job)
        except Exception as error:
            self._end(job, error)
        except BaseException as error:  # A loading thread that was told to exit costs its request only.
            self._end(job, MossVLError(f"loading the media ended with {type(error).__name__}: {error}"))

    def _prompt_of(self, planned: Planned, wanted: int) -> tuple[Prompt, int]:
        """A prompt, and how many of the `wanted` tokens its answer may have.

        Raises:
            ContextLengthError: the prompt is too long, for the model or for the engine's memory.
            PromptError: it has tokens that the model does not know.
        """
        config, tokens = self.model.config, len(planned.input_ids)
        context = config.text_config.max_position_embeddings
        if tokens >= context:
            videos = any(frames > 1 for frames, _, _ in planned.grids)
            raise ContextLengthError(
                f"the prompt has {tokens} tokens, but the context is {context}, answer included; shorten the text"
                + ", or lower the number of frames (max_frames)" * videos
            )
        largest, known = int(planned.input_ids.max()), config.text_config.vocab_size
        if largest >= known:
            raise PromptError(
                f"the prompt has the token {largest}, but the model knows {known}; the tokenizer is not this model's"
            )
        merge = config.vision_config.spatial_merge_size
        prompt = build_prompt(planned.input_ids, planned.grids, config.image_token_id, merge)
        capacity = self.scheduler.capacity(prompt.num_vision)
        if tokens >= capacity or prompt.num_vision > self.runner.tables.max_vision:
            raise ContextLengthError(
                f"the prompt has {tokens} text and {prompt.num_vision} vision tokens, more than the engine's "
                f"{self.cache.num_pages} pages of {self.config.page_size} tokens hold; raise EngineConfig.memory, or "
                "lower max_frames, video_fps or max_pixels"
            )
        return prompt, min(wanted, min(context, capacity) - tokens)

    def _submit(self, job: Job) -> None:
        """Hand a job's requests to the scheduler, once."""
        if not job.submitted and job.prompt is not None:
            job.submitted = True
            job.clock.loaded = time.monotonic()
            for request in job.requests:
                self.scheduler.add(request)

    # --- answers -------------------------------------------------------------------------------------------------

    def _accept(self, pending: Pending | None) -> None:
        """Take in the tokens of a step, if there is one."""
        if pending is None:
            return
        try:
            drawn = pending.wait()
        except Exception as error:
            raise EngineError(f"the device has failed: {error}") from error
        now = time.monotonic()
        tokens = drawn.tokens.tolist()
        logprobs = None if drawn.logprobs is None else [part.tolist() for part in drawn.logprobs]
        changed: dict[int, Job] = {}
        for row, (request, token) in enumerate(zip(pending.requests, tokens, strict=True)):
            request.in_flight -= 1
            if request.ended:
                continue
            job: Job = request.owner
            if token == NOT_A_NUMBER:
                self._end(job, MossVLError("the model's output is not a number; check its weights and dtype"))
                continue
            job.handle.cached_tokens = request.cached
            told = None
            if logprobs is not None and (wanted := job.params.logprobs) is not None:
                best = list(zip(logprobs[2][row][:wanted], logprobs[1][row][:wanted], strict=True))
                told = TokenLogprobs(token, logprobs[0][row], best)
            if job.add(request, token, told, now, self._ends):
                self.scheduler.remove(request)
            elif request.matcher is not None:
                request.matcher.accept(token)
            changed[id(job)] = job
        for job in changed.values():
            if all(request.ended for request in job.requests):
                self._end(job, None)
            elif not job.ended:
                job.handle.changed()

    def _end(self, job: Job, error: Exception | None) -> None:
        """A query is over, whatever of it was still to come."""
        if job.ended:
            return
        job.ended = True
        job.source.stop()
        if job.follower is not None:
            job.follower.stop()
        for request in job.requests:
            if not request.ended:
                self.scheduler.remove(request)
            request.pixels.clear()
            request.large = None
        self._jobs.remove(job)
        with self._lock:
            self._expected -= 1
        if error is not None:
            logger.info("a query has failed", exc_info=error)
            # The error is kept for as long as the handle; what its frames hold (pixels, caches) must not be.
            error = error.with_traceback(None)
        job.handle.timings = job.clock.timings(max(len(draft.tokens) for draft in job.handle.drafts))
        job.handle.end(error)

    def _break(self, error: BaseException) -> None:
        """The device is of no use any more: end everything, and say so to whoever comes."""
        with self._lock:
            self.broken = EngineError(f"the engine has failed and answers nothing any more: {error}")
        self._read_inbox(wait=False)
        for job in list(self._jobs):
            self._end(job, self.broken)


def failure(error: Exception) -> MossVLError:
    """What a request failed of that made a step fail."""
    if isinstance(error, MossVLError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return ResourceError(
            "memory did not suffice for this request; lower max_pixels or max_frames, or leave more to others by a "
            f"lower EngineConfig.memory ({' '.join(str(error).split()):.200})"
        )
    return MossVLError(
        f"computing this request has failed: {type(error).__name__}: {' '.join(str(error).split()):.500}"
    )


def _serve(engine: "weakref.ref[Engine]", inbox: Inbox) -> None:
    """The engine's thread: runs it whenever something comes; while nothing does, it holds on to nothing."""
    while True:
        event = inbox.get()
        running = engine()
        if running is None or not running.serves(event):
            return
        del event, running


def _disown() -> None:
    """In a forked process there are no threads but the one that forked: what would wait for them is told so."""
    for engine in list(_engines):
        engine.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


@atexit.register
def _close_engines() -> None:
    """A thread that is ended in the middle of a computation would take the whole process down with it."""
    for engine in list(_engines):
        engine.close(CLOSING_SECONDS)
