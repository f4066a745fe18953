"""The published class of a realtime session: frames and prompts are pushed, the model's strings are polled."""

import queue
import time
from collections import deque
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any, Protocol, Self

from mossvl.engine.engine import Engine
from mossvl.errors import InputError, PushTimeout, SessionClosed
from mossvl.live.options import LiveOptions
from mossvl.live.session import LiveSession
from mossvl.options import GenerationOptions
from mossvl.options.checks import check_names, present, whole
from mossvl.processing.processor import MossVLProcessor

FRAMES, RATE = 256, 86_400
"""Published defaults: frames that wait, and tokens drawn in a second at most."""
UNHINDERED = 1000
"""A rate that no model reaches."""
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
WITHOUT_EFFECT = ("max_new_tokens", "ignore_eos", "vision_chunked_length")
"""Options that the published loop takes and does not use: nothing but stopping ends it."""
DEEPEST = 8
"""Batches within each other at most."""

Parts = tuple[list[str], list[tuple[Any, float | None]]]
"""Prompts, and images with their times."""


class WithEngine(Protocol):
    """A model that has an engine."""

    def engine(self) -> Engine: ...


class MossVLRealtimeSession:
    """A session as published: all that waits is given to the model at once, and nothing but `close` ends it.

    The session runs in the model's engine, beside others; frames do not leave it until its context is full.

    Args:
        initial_prompt: what is asked before the first frame.
        system_prompt: None for the published one.
        frame_queue_size: frames that wait at most.
        max_tokens_per_turn: tokens drawn in a second at most, despite its name.
        generate_kwargs: options of sampling; `max_new_tokens` has no effect.

    Raises:
        InputError: an option cannot be used.
    """

    def __init__(
        self,
        model: WithEngine,
        processor: MossVLProcessor,
        *,
        initial_prompt: str = "",
        system_prompt: str | None = None,
        frame_queue_size: int = FRAMES,
        max_tokens_per_turn: int = RATE,
        **generate_kwargs: Any,
    ) -> None:
        self.model, self.processor = model, processor
        self.initial_prompt, self.system_prompt = initial_prompt, system_prompt
        self.options = published_options(frame_queue_size, max_tokens_per_turn, generate_kwargs)
        self._session: LiveSession | None = None
        self._closed = False
        self._starting, self._reading = Lock(), Lock()
        self._ready: deque[str] = deque()

    def start(self) -> Self:
        """Begin, unless the session has begun.

        Raises:
            RuntimeError: it was closed.
        """
        self._begun()
        return self

    def push_frame(self, image: Any, timestamp: float | None = None, *, drop_oldest: bool = True) -> bool:
        """Push a frame; return whether the oldest one was dropped for it.

        Args:
            timestamp: seconds of the stream; by default, those since the start.
            drop_oldest: drop the oldest frame if as many wait as may.

        Raises:
            ValueError: the frame cannot be used, or its time is before that of an earlier frame.
            queue.Full: as many frames wait as may, and none is to be dropped.
            RuntimeError: the session was closed.
        """
        return self._give([], [(image, timestamp)], drop_oldest)

    def push_prompt(self, text: str) -> None:
        """Ask something.

        Raises:
            ValueError: the text is empty.
            RuntimeError: the session was closed.
        """
        self._give([text], [], True)

    def push_prompt_frame(
        self, prompt: str, image: Any, timestamp: float | None = None, *, drop_oldest: bool = True
    ) -> bool:
        """Ask something together with a frame; see `push_frame`."""
        return self._give([prompt], [(image, timestamp)], drop_oldest)

    def push_event(self, event: Any, *, drop_oldest: bool = True) -> bool:
        """Push what an event holds, together; see `push_frame`.

        Args:
            event: (image, time), or a dict: {"type": "frame", "image": …, "timestamp": …},
                {"type": "prompt", "prompt": …}, or {"type": "batch", "events": […]}.
        """
        return self._give(*parts_of(event), drop_oldest)

    def poll_output(self, timeout: float = 0.0) -> str | None:
        """Return the next string, control tokens included; None if there is none within `timeout` seconds.

        Raises:
            Exception: that with which the session has failed, once all strings were returned.
        """
        return self._poll(timeout)[0]

    def stream_outputs(self, poll_interval: float = 0.1) -> Iterator[str]:
        """Yield strings until the session has ended, and raise the error with which it has failed."""
        over = False
        while not over:
            text, over = self._poll(poll_interval)
            if text is not None:
                yield text

    def _poll(self, timeout: float) -> tuple[str | None, bool]:
        """The next string, as `poll_output`, and whether none comes after it, nor an error."""
        deadline = time.monotonic() + timeout
        while True:
            with self._reading:
                session = self._session
                ended = session is None or session.ended  # Before its events are taken, the last ones among them.
                if session is not None and not self._ready:
                    self._ready += [event.raw for event in session.take() if event.raw]
                    if ended and not self._ready and session.error is not None:
                        raise session.error
                if self._ready:
                    return self._ready.popleft(), False
            left = deadline - time.monotonic()
            if session is None or ended or left <= 0:
                return None, ended
            session.wait(left)

    @property
    def active(self) -> bool:
        """Whether the session has begun, and has not ended."""
        return self._session is not None and not self._session.ended

    @property
    def error(self) -> Exception | None:
        """Why the session has failed."""
        return None if self._session is None else self._session.error

    @property
    def pending_frames(self) -> int:
        """Number of frames that wait."""
        return 0 if self._session is None else self._session.pending

    def close(self, timeout: float = 5.0) -> None:
        """End the session, and wait at most `timeout` seconds for its end."""
        with self._starting:
            self._closed = True
        if self._session is not None:
            self._session.close(timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self) -> LiveSession:
        with self._starting:
            if self._closed:
                raise SessionClosed("the session was closed; create another one")
            if self._session is None:
                self._session = LiveSession(
                    self.model.engine(),
                    self.processor,
                    self.initial_prompt,
                    system_prompt=self.system_prompt,
                    options=self.options,
                    apart=True,
                )
            return self._session

    def _give(self, prompts: list[str], frames: list[tuple[Any, float | None]], drop_oldest: bool) -> bool:
        session = self._begun()
        try:
            if drop_oldest:
                return bool(session.give(prompts, frames, behind="drop_oldest"))
            return bool(session.give(prompts, frames, behind="block", timeout=0.0))
        except PushTimeout:
            raise queue.Full from None


def published_options(
    frame_queue_size: int, max_tokens_per_turn: int, generate_kwargs: Mapping[str, Any]
) -> LiveOptions:
    """The options of a session that goes on as the published loop does.

    Raises:
        OptionError: an option is unknown or out of range.
    """
    given = present(generate_kwargs)
    check_names(given, (*SAMPLING, *WITHOUT_EFFECT), "generation option of a realtime session")
    sampling = GenerationOptions.from_dict({name: given[name] for name in given if name in SAMPLING})
    rate = whole("max_tokens_per_turn", max_tokens_per_turn)
    return LiveOptions(
        tokens_per_second=None if rate >= UNHINDERED else float(rate),
        frames="drain",
        queue=whole("frame_queue_size", frame_queue_size),
        window_seconds=None,
        inserted_silence="published",
        ignore_eos=True,
        **{name: getattr(sampling, name) for name in SAMPLING},
    )


def parts_of(event: Any, depth: int = 0) -> Parts:
    """The prompts and frames of an event, in their order.

    Raises:
        InputError: it is no event.
    """
    if isinstance(event, tuple | list) and len(event) == 2:
        return [], [(event[0], event[1])]
    kind = event.get("type") if isinstance(event, Mapping) else None
    if kind == "frame":
        image = event.get("image") if event.get("image") is not None else event.get("frame")
        if image is not None:
            return [], [(image, event.get("timestamp"))]
    elif kind == "prompt" and isinstance(event.get("prompt"), str):
        return [event["prompt"]], []
    elif kind == "batch" and isinstance(event.get("events"), list | tuple) and depth < DEEPEST:
        prompts: list[str] = []
        frames: list[tuple[Any, float | None]] = []
        for one in event["events"]:
            more = parts_of(one, depth + 1)
            prompts, frames = prompts + more[0], frames + more[1]
        return prompts, frames
    told = dict.fromkeys(event, "…") if isinstance(event, Mapping) else type(event).__name__
    raise InputError(
        f"the event {told!r:.200} is none; give (image, time), or a dict with type 'frame' (image, timestamp), "
        "'prompt' (prompt) or 'batch' (events)"
    )
