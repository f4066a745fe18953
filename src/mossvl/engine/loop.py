"""The loop of an engine, in one thread: plan a step, launch it, distribute its tokens.

Other threads put events into a queue of the loop's, which runs them between steps.
"""

import logging
import queue
import threading
import time
from bisect import insort_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mossvl.device.budget import budget_for, costs_for
from mossvl.device.runner import Pending, Runner
from mossvl.device.sampler import NOT_A_NUMBER
from mossvl.engine.failures import end_those_left, failure_of_step
from mossvl.engine.job import Job
from mossvl.engine.logprobs import told_of, told_prompts
from mossvl.engine.prompts import Prompts
from mossvl.errors import EngineError, MossVLError
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options import EngineConfig
from mossvl.scheduling.pages import PageCache
from mossvl.scheduling.request import Request
from mossvl.scheduling.reservations import Reservations
from mossvl.scheduling.scheduler import Scheduler
from mossvl.scheduling.step import Step
from mossvl.sources.source import Appended, Event, Frame, Loaded, Stalled

logger = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
"""Seconds that the loop waits at most where all jobs wait for others."""

Events = queue.SimpleQueue[Callable[[], None] | None]
"""Events for the loop's thread; None makes the thread check whether it is to end."""


class Loop:
    """Owner of jobs, scheduler and runner; `run` is called in the engine's thread.

    Attributes:
        jobs: queries that have not ended. Any thread may add one (see `add`); only the loop removes one.
        broken: the error of every further query, once the device has failed.
        closing: number of callers of `close` that wait for the thread to end; queries are refused meanwhile.
        lock: held by threads that add a job or change `broken` or `closing`; the loop removes jobs without it.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig) -> None:
        self.model, self.config = model, config
        budget = budget_for(config, model)
        self.runner = Runner(model, config, budget)
        pool = self.runner.executor.pool
        self.cache = PageCache(pool.num_pages, config.prefix_cache)
        self.scheduler: Scheduler[Job] = Scheduler(
            config, self.cache, pool.groups, self.runner.vision_cache, budget, costs_for(model), pool.vision_page_size
        )
        self._prompts = Prompts(model.config, self.scheduler.allocator, self.runner.executor.tables.max_vision)
        self.reservations = Reservations(pool.num_pages, config)
        self.jobs: list[Job] = []
        self.events: Events = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.broken: EngineError | None = None
        self.closing = 0
        self._to_load: list[Job] = []
        self._to_follow: list[Job] = []
        self._set_up_in: threading.Thread | None = None

    def add(self, job: Job, pages: int = 0) -> None:
        """Add a query, from any thread that holds the lock.

        Args:
            pages: that a live session reserves.

        Raises:
            EngineError: the device has failed, or the engine is being closed.
            SessionLimitError: no session more fits.
        """
        if self.broken is not None:
            raise self.broken
        if self.closing:
            raise EngineError("the engine is being closed and takes no query; ask again once close() has returned")
        if job.director is not None:
            job.reserved = self.reservations.reserve(pages)
        self.jobs.append(job)
        self.events.put(lambda: self._receive(job))

    def extend(self, job: Job, appended: Appended) -> None:
        """Append a prompt to an open job, from any thread; a job that has ended ignores it.

        Raises:
            ValueError: the query was not begun as an open one.
        """
        if not job.open:
            raise ValueError("only a query that was begun with open=True can be appended to")
        self.events.put(lambda: job.appended.append(appended))

    def run(self) -> None:
        """Run steps until all jobs have ended. On a GPU, a step's tokens are read while the next step runs."""
        pending: Pending[Job] | None = None
        try:
            if self._set_up_in is not threading.current_thread():
                self.runner.set_up()
                self._set_up_in = threading.current_thread()
            while self.jobs or pending is not None:
                self._check()
                step = self.scheduler.plan()
                self._follow()
                for lost in step.lost:
                    with self._alone(lost.owner):
                        lost.owner.lose()
                for request, frame in step.missing:
                    self._load_again(request, frame)
                idle = not step and pending is None
                first, *rest = self.scheduler.launches(step)
                pending = self._carry_out(first, pending)
                for part in rest:
                    pending = self._carry_out(part.still_possible(), pending)
                self._run_events(self._idle_seconds() if idle and self.jobs else 0.0)
        except BaseException as error:
            logger.exception("the engine has failed")
            self._break(error)

    def _carry_out(self, step: Step[Job], pending: Pending[Job] | None) -> Pending[Job] | None:
        """Launch a step, and accept what is pending; return what is pending then. On a CPU, nothing ever is."""
        drawn = None
        if step:
            try:
                drawn = self._launch(step)
            except Exception as error:
                logger.warning("a step has failed", exc_info=error)
                self._accept(pending)
                pending = None
                self._launch_apart(step, error)
        if self.runner.overlaps:
            drawn, pending = pending, drawn
        self._accept(drawn)
        return pending

    def _launch_apart(self, step: Step[Job], error: Exception) -> None:
        """After a failed step, launch each request's part alone, and end only requests that fail alone.

        No token is in flight.
        """
        failed = failure_of_step(error, self.runner)
        apart = step.apart()
        for request, own in apart.items():
            # The tokens of the step before may have ended or parked a request.
            if request.ended or (own.decode and request.parked):
                continue
            # A request alone is tried again, too, if memory that was taken beside it is free now.
            if len(apart) > 1 or isinstance(error, torch.OutOfMemoryError):
                if not self.runner.can_encode(own):
                    own = Step(copies=own.copies)  # The scheduler plans the frames again when they are reloaded.
                try:
                    self.runner.recall(request)
                    self._accept(self._launch(own))
                    continue
                except Exception as again:
                    failed = failure_of_step(again, self.runner)
            self._end(request.owner, failed)

    def _launch(self, step: Step[Job]) -> Pending[Job]:
        """Launch a step.

        Raises:
            Exception: the launch has failed; the scheduler's state is as before.
        """
        with self.runner.executor.waiting():
            pending = self.runner.launch(step)
        self.scheduler.record_launch(step)
        for job in dict.fromkeys(part.request.owner for part in step.frames):
            if job.director is None:  # A session may go on for days.
                job.timeline.encoding(self.runner.vision_watch)
        now = time.monotonic()
        for request in step.prompted:
            request.owner.record_launch(request, now)
        return pending

    def _idle_seconds(self) -> float:
        """How long to wait for an event, if there is nothing to compute."""
        wait = LONGEST_WAIT
        for job in list(self.jobs):
            with self._alone(job):
                wait = min(wait, job.idle_seconds)
            if job.ended:
                return 0.0
        return wait

    def _run_events(self, wait: float = 0.0) -> None:
        """Run the events that wait; wait up to `wait` seconds for the first."""
        try:
            event = self.events.get(block=wait > 0, timeout=wait)
            while True:
                if event is not None:
                    event()
                event = self.events.get_nowait()
        except queue.Empty:
            return

    def _check(self) -> None:
        """End jobs that were cancelled or timed out, append waiting prompts, and start loads."""
        now = time.monotonic()
        for job in list(self.jobs):
            if (reason := job.reason_to_end(now)) is not None:
                self._end(job, reason)
            elif job.submitted and (job.appended or job.director is not None):
                self._go_on(job)
        busy = sum(job.loading for job in self.jobs)
        while self._to_load and busy < self.config.media_workers:
            job = self._to_load.pop(0)
            if not job.ended:
                busy += 1
                self._load(job)

    def _receive(self, job: Job) -> None:
        if job.director is not None:  # Its source loads nothing.
            self._load(job)
        else:
            insort_right(self._to_load, job, key=lambda job: job.params.priority)
        if job.follower is not None:
            self._to_follow.append(job)

    # --- forms ---------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Start the grammar processes of admitted jobs; waiting jobs have none."""
        for job in [one for one in self._to_follow if one.ended or any(request.slot >= 0 for request in one.requests)]:
            self._to_follow.remove(job)
            if not job.ended:
                self._start_following(job)

    def _start_following(self, job: Job) -> None:
        assert job.follower is not None
        job.follower.start(lambda *told: self.events.put(lambda: self._form(job, *told)))

    def _form(self, job: Job, number: int, mask: bytes, error: MossVLError | None) -> None:
        if job.follower is None or job.ended:
            return
        job.follower.matchers[number].mask = mask
        if error is not None:
            self._end(job, error)

    # --- media ---------------------------------------------------------------------------------------------------

    def _load(self, job: Job, first: int | None = None) -> None:
        """Start a job's source, or start it again for the frames from `first` on."""
        if not job.loading and not job.ended:
            job.loading = True
            job.be_patient()
            job.source.start(lambda event: self.events.put(lambda: self._media(job, event)), first)

    def _load_again(self, request: Request[Job], frame: int) -> None:
        """Reload pixels from a missing frame on, unless a running load will report them."""
        job = request.owner
        if job.keeps(request, frame):
            if not job.loading:  # After the step, which may hold other parts of the request.
                error = MossVLError(f"the pixels of frame {frame} are gone, and cannot be loaded once more")
                self.events.put(lambda: self._end(job, error))
            return
        if job.loading:
            job.give_up(request, frame)
        self._load(job, frame)

    def _media(self, job: Job, event: Event) -> None:
        if job.ended:
            if isinstance(event, Frame):
                job.source.release(event.patches)
            return
        try:
            job.receive(event, self._prompts)
            if isinstance(event, Stalled | Loaded) or job.may_begin:
                self._submit(job)
        except Exception as error:
            self._end(job, error)
        except BaseException as error:  # For example SystemExit in a loading thread.
            self._end(job, MossVLError(f"loading the media ended with {type(error).__name__}: {error}"))

    def _submit(self, job: Job) -> None:
        """Give a job's requests to the scheduler, once."""
        if not job.submitted and job.requests:
            job.submitted = True
            job.timeline.loaded = time.monotonic()
            for request in job.requests:
                self.scheduler.add(request)

    def _go_on(self, job: Job) -> None:
        """Append a job's waiting prompts, or what its director decides."""
        with self._alone(job):
            if job.director is None:
                job.append(self._prompts)
            elif (replaced := job.direct(self._prompts)) is not None:
                self.scheduler.remove(replaced)
                replaced.pixels.clear()
                self.scheduler.add(job.requests[0])

    @contextmanager
    def _alone(self, job: Job) -> Iterator[None]:
        """An error within, as of a director, ends this job alone."""
        try:
            yield
        except Exception as error:
            self._end(job, error)

    # --- answers -------------------------------------------------------------------------------------------------

    def _accept(self, pending: Pending[Job] | None) -> None:
        """Read the tokens of a launched step, if there is one, and add them to their answers."""
        if pending is None:
            return
        try:
            with self.runner.executor.waiting():
                drawn = pending.wait()
        except Exception as error:
            raise EngineError(f"the device has failed: {error}") from error
        self.runner.executor.check()
        self.scheduler.costs.learn(pending.work, pending.seconds)
        now = time.monotonic()
        tokens = drawn.tokens.tolist()
        logprobs = None if drawn.logprobs is None else [part.tolist() for part in drawn.logprobs]
        if pending.scores is not None:
            told_prompts(pending.scored, pending.scores)
        changed: dict[int, Job] = {}
        for row, (request, token) in enumerate(zip(pending.requests, tokens, strict=True)):
            if not request.count_arrival():
                continue
            job = request.owner
            if token == NOT_A_NUMBER:
                self._end(job, MossVLError("the model's output is not a number; check its weights and dtype"))
                continue
            if request is job.requests[0]:  # Its siblings reuse what it has computed, which saves the query nothing.
                job.handle.cached_tokens = request.cached
            told = None if logprobs is None else told_of(logprobs, row, token, job.params.logprobs)
            parks = False
            with self._alone(job):
                parks = job.add(request, token, told, now)
            if job.ended:
                continue
            if parks:
                if job.open:
                    request.park()
                else:
                    self.scheduler.remove(request)
            elif request.matcher is not None:
                request.matcher.accept(token)
            changed[id(job)] = job
        for job in changed.values():
            if all(request.ended for request in job.requests):
                self._end(job, None)
            elif not job.ended:
                with self._alone(job):
                    job.changed()

    def _end(self, job: Job, error: Exception | None) -> None:
        """End a query: stop its source and processes, release its pages, and end its handle."""
        if job not in self.jobs:  # Its handle may have ended before: see `end_those_left`.
            return
        for request in job.requests:
            if not request.ended:
                self.scheduler.remove(request)
            request.pixels.clear()
        self.runner.encoder.give_up()
        self.jobs.remove(job)
        if job.director is not None:
            self.reservations.give_back(job.reserved)
        if error is not None:
            logger.info("a query has failed", exc_info=error)
        job.end(error)

    def _break(self, error: BaseException) -> None:
        """End all queries, and refuse further ones: the device has failed."""
        self._refuse(error)
        self._run_events()
        for job in list(self.jobs):
            self._end(job, self.broken)

    def fail(self, error: EngineError) -> None:
        """As `_break`, from any thread: another rank has failed, or a step hangs, and maybe the loop's thread in it."""
        self._refuse(error)
        self.events.put(lambda: self._break(error))
        end_those_left(self.jobs, self.broken or error)

    def _refuse(self, error: BaseException) -> None:
        with self.lock:
            if self.broken is None:
                self.broken = EngineError(f"the engine has failed and answers nothing any more: {error}")
