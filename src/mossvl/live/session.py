"""A live session: frames and prompts go in from any thread, events come out, while the engine does the rest."""

import asyncio
import logging
import time as machine
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from threading import Lock
from typing import Any, Literal, Self, get_args

from mossvl.engine.engine import Engine
from mossvl.errors import ContextLengthError, InputError, PromptError, shown
from mossvl.live.clock import Clock, checked_clock, checked_time, checked_timeout
from mossvl.live.director import LiveDirector
from mossvl.live.ending import Ending
from mossvl.live.events import Dropped, LiveEvent
from mossvl.live.feeding import Feeding
from mossvl.live.inbox import Inbox, Taken
from mossvl.live.kept import Kept, opening_size
from mossvl.live.opening import Opening, bounds_of, checked_messages, pages_of
from mossvl.live.options import LiveOptions, WhenBehind
from mossvl.live.outbox import Outbox
from mossvl.live.pictures import Pictures
from mossvl.live.record import Recorder
from mossvl.live.recording import Given, RecordedInbox
from mossvl.live.segments import Asked, StreamTokens
from mossvl.live.usage import Usage
from mossvl.options import GenerationOptions
from mossvl.options.checks import choice
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.waker import Waker

logger = logging.getLogger(__name__)


class LiveSession:
    """A session that watches while it speaks.

    Iterate over it for its events (`for` or `async for`), the last of which is `Closed`. Use it as a context manager,
    or `close` it. Any thread may call any method. A `timeout` that is no time raises `InputError`, and changes nothing.

    Args:
        prompt: what is asked before the first frame; it may be empty.
        system_prompt: None for the published one, which tells the model to decide at every frame.
        prefill: messages to go on from (`Closed.prefill`), in place of both.
        clock: seconds of any origin that never decrease; the session ends if it fails.
        recorder: writes the session down.
        recorded: the inputs of a recorded session, in place of those that are pushed; see `feed`.
        apart: the text of each token is an event of its own, also if nobody reads for a while.

    Raises:
        CheckpointError: the checkpoint has no state tokens.
        EngineError: the engine has failed, or is being closed.
        InputError: a text or an option cannot be used.
        SessionLimitError: no session more fits into the engine.
    """

    def __init__(
        self,
        engine: Engine,
        processor: MossVLProcessor,
        prompt: str = "",
        *,
        system_prompt: str | None = None,
        options: LiveOptions | None = None,
        prefill: Sequence[Mapping[str, str]] | None = None,
        clock: Clock = machine.monotonic,
        recorder: Recorder | None = None,
        recorded: RecordedInbox | None = None,
        apart: bool = False,
    ) -> None:
        self.engine, self.processor, self.options = engine, processor, options or LiveOptions()
        self.clock = clock = checked_clock(clock)
        self._begun = clock()
        self._tokens = StreamTokens(processor)
        messages = checked_messages(prompt, system_prompt, prefill)
        opening = self._tokens.prefilled(messages)
        bounds = bounds_of(engine, processor, self.options)
        if len(opening) > bounds.tokens // 2:
            raise ContextLengthError(
                f"the session begins with {len(opening)} tokens, but may have {bounds.tokens // 2} at its beginning",
                setting="LiveOptions.max_context",
                advice="; shorten its prompts, or raise {}",
            )
        # With the system prompt, any question has room in a new context.
        words = min(bounds.tokens // 4, bounds.tokens // 2 - opening_size(self._tokens, messages))
        self._inbox = recorded or Inbox(self.options.when_behind, self.options.queue, words)
        self._recorded, self._recorder = recorded, recorder
        self._outbox = Outbox(self._tokens, apart)
        self._pictures = Pictures(processor, self._tokens, self.options.media, bounds.vision)
        kept = Kept(self._tokens, messages)
        ending = Ending(engine.wake, self._inbox, self._outbox, kept, bounds.tokens // 2)
        director = LiveDirector(
            self._tokens, self.options, self._inbox, self._outbox, kept, bounds, engine.ends, clock, ending.close
        )
        if recorded is not None:
            recorded.end = partial(ending.close, "closed")
        if recorder is not None:
            recorder.begun(messages, self.options)
            director.given = recorder.given
        source = Opening(processor, opening)
        self._director, self._ending, self._opening = director, ending, len(opening)
        pages = pages_of(engine, bounds)
        begun: dict[str, Any] = {"director": director, "pages": pages, "lora": self.options.lora}
        ending.begun(engine.begin(source, self._generation(), open=True, **begun))
        self._abandoned = weakref.finalize(self, ending.close, "closed")
        self._abandoned.atexit = False
        self._pushing = Lock()

    # --- what goes in --------------------------------------------------------------------------------------------

    def push(
        self, frame: Any, time: float | None = None, *, final: bool = False, timeout: float | None = None
    ) -> tuple[float, ...]:
        """Push a frame; return the times of the frames that were dropped for it.

        The caller's thread decodes and resizes it.

        Args:
            frame: an image: a path, bytes, a Pillow image, an array or a tensor (see `mossvl.media.image.open_image`).
            time: seconds of the stream, which frames are told to the model with; by default, the seconds since the
                session began.
            final: nothing more is to come: the session ends when the model has spoken.
            timeout: with `when_behind="block"`, seconds to wait for room; None for as long as it takes.

        Raises:
            InputError: the frame cannot be used, or its time is before that of an earlier frame.
            PushTimeout: there was no room.
            SessionClosed: the session has ended.
        """
        return self.give([], [(frame, time)], final=final, timeout=timeout)

    def say(
        self,
        text: str,
        frame: Any = None,
        time: float | None = None,
        *,
        final: bool = False,
        timeout: float | None = None,
    ) -> tuple[float, ...]:
        """Ask something, alone or together with a frame; see `push`."""
        if frame is None and time is not None:
            raise InputError(f"time={time!r:.40} is that of a frame, but there is none; leave it out")
        return self.give([text], [] if frame is None else [(frame, time)], final=final, timeout=timeout)

    def give(
        self,
        prompts: Sequence[str],
        frames: Sequence[tuple[Any, float | None]],
        *,
        final: bool = False,
        behind: WhenBehind | None = None,
        timeout: float | None = None,
    ) -> tuple[float, ...]:
        """Give prompts and frames together, so that the model is given all at once, if the frames are one; see `push`.

        Args:
            prompts: texts, in order; they come before the first frame.
            frames: pairs (image, seconds), with None for the clock's time.
            behind: in place of `LiveOptions.when_behind`, for these frames.

        Raises:
            OptionError: `behind` is unknown.
            PromptError: `prompts` are no texts.
        """
        self._inbox.check_open()  # Before a lock that may be held for ever, in a forked process.
        for name, given, what in (("prompts", prompts, "texts"), ("frames", frames, "pairs (image, seconds)")):
            if not isinstance(given, list | tuple):
                raise PromptError(f"{name}={shown(given, 40)} must be a list of {what}")
        asked = [Asked(text, self._tokens.prompt(text)) for text in map(self._tokens.asked, prompts)]
        for frame in frames:
            if not isinstance(frame, tuple | list) or len(frame) != 2:
                kind = type(frame).__name__
                raise InputError(f"frames: a {kind} is no pair (image, seconds); give pairs, with None for the clock's")
        if behind is not None:
            choice("behind", behind, get_args(WhenBehind))
        dropped: tuple[float, ...] = ()
        if frames:
            dropped = self._push(frames, asked, final, behind or self.options.when_behind, timeout)
        elif asked:
            self._inbox.ask(asked, final)
        elif final:
            self._inbox.end()
        self.engine.wake()
        return dropped

    def watch(self, source: Iterable[Any], *, lockstep: bool = False) -> None:
        """Push the frames of a source, in a thread of its own; return at once.

        Where the source ends, nothing more is to come (`final`); its error ends the session, and is that of `Closed`.
        The source is closed when either has ended.

        Args:
            source: a `FrameSource`, or an iterable of images or (seconds, image); see `mossvl.live.sources.Frames`.
            lockstep: push a frame once the model has decided on all that was given before.

        Raises:
            InputError: `source` is none.
        """
        Feeding(self, source, lockstep).start()

    def interrupt(self) -> None:
        """Let the model fall silent now; what it watches goes on.

        Raises:
            SessionClosed: the session has ended.
        """
        self._inbox.interrupt()
        self.engine.wake()

    def final(self) -> None:
        """Tell that nothing more is to come: the session ends when the model has spoken.

        Raises:
            SessionClosed: the session has ended.
        """
        self._inbox.end()
        self.engine.wake()

    def fail(self, error: Exception) -> None:
        """End the session because of an error, such as that of its source; `Closed` has it."""
        self._ending.close("error", error)

    def close(self, timeout: float = 5.0) -> None:
        """End the session, and wait at most `timeout` seconds for its end; a listener does not wait."""
        limit = checked_timeout(timeout)
        self._ending.close("closed")
        self._outbox.wait_end(limit)

    def feed(self) -> None:
        """Give the session the recorded inputs, until the last one, in the caller's thread.

        Raises:
            InputError: an input cannot be used; the session is closed then.
        """
        if self._recorded is None:
            return
        try:
            self._recorded.feed(self._remade, self.engine.wake)
        except BaseException:
            self._ending.close("closed")
            raise

    def _remade(self, given: Given) -> Taken:
        prompts = [Asked(text, self._tokens.prompt(text)) for text in given.prompts]
        pictures = [self._pictures.make(image, checked_time(time), self.clock()) for time, image in given.frames]
        return Taken(given.interrupts, prompts, pictures, given.final)

    # --- what comes out ------------------------------------------------------------------------------------------

    def take(self) -> list[LiveEvent]:
        """Return the events since the last call, without waiting."""
        return self._outbox.take()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there are events to take, or none will come any more; return False after `timeout` seconds."""
        return self._outbox.wait(None if timeout is None else checked_timeout(timeout))

    def when_changed(self, listener: Callable[[], object]) -> None:
        """Call `listener` now, and whenever there are new events: in the engine's thread, or in that of a `push` that
        drops frames. It must be quick."""
        self._outbox.listen(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        """Remove a listener."""
        self._outbox.forget(listener)

    def __iter__(self) -> Iterator[LiveEvent]:
        """Yield events until `Closed`."""
        while True:
            self.wait()
            ended = self._outbox.ended
            yield from self.take()
            if ended:
                return

    async def __aiter__(self) -> AsyncIterator[LiveEvent]:
        """As `__iter__`, for asyncio."""
        changed = asyncio.Event()
        wake = partial(Waker.here().set, changed)
        self.when_changed(wake)
        try:
            while True:
                changed.clear()
                ended = self._outbox.ended
                for one in self.take():
                    yield one
                if ended:
                    return
                await changed.wait()
        finally:
            self.forget(wake)

    @property
    def pending(self) -> int:
        """Number of frames that wait to be seen."""
        return self._inbox.pending

    @property
    def active(self) -> bool:
        """Whether the session has not ended."""
        return not self._inbox.closed

    @property
    def ended(self) -> bool:
        """Whether the last event has been told, if not read."""
        return self._outbox.ended

    @property
    def decisions(self) -> int:
        """Number of slots that are over: events `Decision` so far, if not read."""
        return self._outbox.decisions

    @property
    def deciding(self) -> bool:
        """Whether something waits for the model, or the slot after the newest frame or prompt is not over."""
        return self._inbox.waiting or self._director.deciding  # In this order: one is set before the other is not.

    @property
    def now(self) -> float:
        """Seconds since the session began."""
        return self.clock() - self._begun

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        told = self._director
        return Usage(told.vision, self._opening + told.appended, told.count, told.held, told.bounds.tokens)

    @property
    def error(self) -> Exception | None:
        """Why the session has failed."""
        return self._ending.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.close("closed")
        async for _event in self:
            pass

    # --- frames --------------------------------------------------------------------------------------------------

    def _push(
        self,
        frames: Sequence[tuple[Any, float | None]],
        prompts: Sequence[Asked],
        final: bool,
        behind: WhenBehind,
        timeout: float | None,
    ) -> tuple[float, ...]:
        pushed, until = self.clock(), None if timeout is None else machine.monotonic() + checked_timeout(timeout)
        while True:
            if behind == "block":  # Without the lock: others may push meanwhile, and drop frames.
                left = None if until is None else max(0.0, until - machine.monotonic())
                self._inbox.wait_room(len(frames), left)
            with self._pushing:  # In the order of their times, also if several threads push.
                if behind != "block" or self._inbox.closed or self._inbox.has_room(len(frames)):
                    return self._put(frames, prompts, final, behind, pushed)

    def _put(
        self,
        frames: Sequence[tuple[Any, float | None]],
        prompts: Sequence[Asked],
        final: bool,
        behind: WhenBehind,
        pushed: float,
    ) -> tuple[float, ...]:
        by_clock = max(pushed - self._begun, self._inbox.newest or 0.0)
        times = [by_clock if time is None else checked_time(time) for _, time in frames]
        pictures = [self._pictures.make(frame, time, pushed) for (frame, _), time in zip(frames, times, strict=True)]
        if self._recorder is not None:
            for picture, (frame, _) in zip(pictures, frames, strict=True):
                self._recorder.shown(picture, frame, self.processor.limits)
        pictures.sort(key=attrgetter("time"))
        dropped = tuple(self._inbox.put(pictures, prompts, final, behind))
        if dropped:
            reason: Literal["queue", "latest"] = "latest" if behind == "latest" else "queue"
            self._outbox.tell(Dropped(time=self._director.newest, times=dropped, reason=reason))
            self._outbox.announce()
        return dropped

    def _generation(self) -> GenerationOptions:
        never = self._tokens.never_drawn
        options = self.options.generation
        return replace(options, logit_bias=dict.fromkeys(never, -100.0)) if never else options
