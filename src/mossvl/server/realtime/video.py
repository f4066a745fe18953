"""The newer protocol of live sessions: numbered inputs with acknowledgements, turns, usage and a graceful end."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from mossvl.errors import ContextLengthError
from mossvl.live.events import (
    Closed,
    Decision,
    Dropped,
    Interrupted,
    Limit,
    LiveEvent,
    RolledOver,
    Seen,
    Silence,
    Text,
    Turn,
)
from mossvl.live.options import LiveOptions
from mossvl.live.usage import NO_USAGE
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal
from mossvl.server.realtime.ends import (
    FAILED,
    MOST_PREFILL_TEXT,
    NORMAL,
    POLICY,
    STOPPING,
    TRY_LATER,
    shortened,
)
from mossvl.server.realtime.inputs import Input, Inputs
from mossvl.server.realtime.protocol import (
    Begin,
    End,
    Interrupt,
    Protocol,
    Push,
    Say,
    asked,
    check_image,
    invalid,
    words_of,
)
from mossvl.server.realtime.speech import Speech
from mossvl.server.realtime.usage import counted, telemetry
from mossvl.server.schemas import realtime as schemas

CONFIGURE_SECONDS, IMAGE_SECONDS = 180.0, 10.0
USAGE_SECONDS = 1.0
"""Seconds between two `session.usage` at least."""
CAPABILITIES = (
    "session.usage",
    "response.done.usage",
    "session.done.usage",
    "error.seq_no",
    "input.frame.rejected",
    "response.done.per_response",
    "response.id",
    "usage.text_input_output",
    "prefill_messages",
    "response.interrupt",
)
VERSION = "vl-api-v2"


class VideoProtocol(Protocol):
    """`WS /v1/video/realtime`, of the model with this name."""

    forms = {
        "session.configure": schemas.Configure,
        "input.frame": schemas.InputFrame,
        "input.prompt": schemas.InputPrompt,
        "response.interrupt": schemas.InterruptResponse,
        "session.abort": schemas.Abort,
    }

    def __init__(self, config: ServerConfig, now: Callable[[], float], model: str) -> None:
        super().__init__(config, now)
        self._model = model
        session, request = f"video_sess_{secrets.token_hex(16)}", f"video_req_{secrets.token_hex(16)}"
        self._ids = {"session_id": session, "request_id": request}
        self._configure_by = now() + CONFIGURE_SECONDS
        self._configured: schemas.Configure | None = None
        self._inputs = Inputs(capacity=1)
        self._ready = self._ending = False
        self._ends: tuple[str, Exception | None, int] = ("aborted", None, NORMAL)
        """Reason, error and code of an end that this side has asked for."""
        self._last: tuple[int | None, float | None] = (None, None)
        """Number and time of the newest input that the model has processed."""
        self._speech = Speech(self._send, lambda: self.usage())
        self._usage_due = 0.0

    # --- the beginning -------------------------------------------------------------------------------------------

    def opened(self) -> None:
        self.deadline = self._configure_by
        self._send(
            "session.created",
            **self._ids,
            model=self._model,
            turn_id=0,
            configure_timeout_s=CONFIGURE_SECONDS,
            protocol_version=VERSION,
            capabilities=list(CAPABILITIES),
        )

    def full(self, error: RequestError) -> None:
        self._ending = True
        self._send("error", code="session_capacity_exceeded", message=words_of(error))
        self._send("session.done", reason="error", usage=counted(NO_USAGE))
        self._close(TRY_LATER, "session_capacity_exceeded")

    def late(self) -> None:
        self.deadline = None
        what = "session.configure" if self._configured is None else "the frame's image"
        self._end("error", RequestError(408, "session_timeout", f"{what} has not come in time"), POLICY)

    def _configure(self, message: schemas.Configure) -> None:
        if self._configured is not None:
            self._refuse(invalid("the session is configured already"))
            return
        if message.benchmark_ignore_eos:
            self._refuse(invalid("benchmark_ignore_eos is not allowed here; leave it out", "benchmark_ignore_eos"))
            return
        prefill = message.prefill_messages
        if prefill is not None and sum(len(one.content) for one in prefill) > MOST_PREFILL_TEXT:
            self._refuse(invalid(f"prefill_messages have more than {MOST_PREFILL_TEXT} characters", "prefill_messages"))
            return
        rate = message.max_tokens_per_turn
        options = LiveOptions(
            queue=message.input_queue_capacity,
            when_behind="block",
            tokens_per_second=None if rate >= schemas.UNLIMITED else rate,
            max_new_tokens=message.max_new_tokens,
            idle_timeout=self.config.live_idle,
            do_sample=message.temperature > 0,
            temperature=message.temperature,
            top_k=-1,
            top_p=message.top_p,
        )
        self._configured, self._inputs, self.deadline = message, Inputs(message.input_queue_capacity), None
        if prefill is None:
            self.acts.append(Begin(message.prompt, message.system_prompt or None, options))
        else:
            self.acts.append(Begin("", None, options, history(message, prefill)))

    def begun(self) -> None:
        assert self._configured is not None
        self._ready = True
        self._send(
            "session.configured",
            **self._ids,
            max_frame_bytes=self.config.live_frame_bytes,
            input_queue_capacity=self._configured.input_queue_capacity,
            max_tokens_per_turn=self._configured.max_tokens_per_turn,
            parked_request_timeout_s=self.config.live_idle,
            context_limit=self.usage().limit,
        )
        self._send("session.ready", **self._ids, turn_id=0)

    # --- messages ------------------------------------------------------------------------------------------------

    def message(self, message: Any) -> None:
        if self._ending:
            return
        if isinstance(message, schemas.Abort):
            self._end("aborted")
        elif isinstance(message, schemas.Configure):
            self._configure(message)
        elif not self._ready:
            self._refuse(invalid(f"{message.type} before session.ready; send session.configure, and wait"), message)
        elif isinstance(message, schemas.InterruptResponse):
            self.acts.append(Interrupt())
        else:
            self._input(message)

    def binary(self, data: bytes) -> None:
        if self._ending:
            return
        one, self._inputs.announced = self._inputs.announced, None
        if one is None or not isinstance(one.message, schemas.InputFrame):
            self._refuse(invalid("an image must follow input.frame.ready"))
            return
        self.deadline = None
        frame = one.message
        try:
            check_image(data, self.config.live_frame_bytes, frame.mime_type)
        except RequestError as error:
            self._refuse(error, frame)
            return
        self._inputs.given = one
        self.acts.append(Push(data, frame.timestamp, asked(frame.prompt), frame.final))

    def _input(self, message: schemas.InputFrame | schemas.InputPrompt) -> None:
        """Take an input, now or once there is room for it."""
        try:
            one = self._inputs.take(message)
        except RequestError as error:
            self._refuse(error, message)
        else:
            self._go_on(one)

    def _go_on(self, one: Input | None) -> None:
        """There is room for an input, if there is one."""
        if one is None:
            return
        if isinstance(one.message, schemas.InputPrompt):
            self._inputs.given = one
            self.acts.append(Say(one.message.prompt, one.message.final))
        else:
            self._inputs.announced, self.deadline = one, self.now() + IMAGE_SECONDS
            self._send("input.frame.ready", seq_no=one.seq_no)

    # --- the session ---------------------------------------------------------------------------------------------

    def pushed(self, dropped: Sequence[float] = (), pending: int = 0) -> None:
        one = self._inputs.accept()
        self._taken()
        message = one.message
        told: dict[str, Any] = {"seq_no": one.seq_no, "final": message.final}
        if isinstance(message, schemas.InputFrame):
            told["timestamp"] = message.timestamp
        waiting = self._inputs.pending
        self._send(f"{message.type}.accepted", **told, pending_events=waiting, interrupts_current_turn=one.asks)

    def failed(self, error: Exception) -> None:
        if not self._ready:
            status = refusal(error).status
            if status == 503:
                self.full(refusal(error))
            elif status < 500 and not isinstance(error, ContextLengthError):
                self._configured, self.deadline = None, self._configure_by  # The client may correct it.
                self._refuse(error)
            else:
                self.broken(error)
            return
        one, self._inputs.given = self._inputs.given, None
        if one is None or refusal(error).status >= 500:
            self._end("error", error, FAILED)
        else:
            self._refuse(error, one.message)

    def broken(self, error: Exception) -> None:
        self._finish("context_exhausted" if isinstance(error, ContextLengthError) else "error", error, FAILED, [])

    def told(self, event: LiveEvent) -> None:
        if isinstance(event, Turn):
            self._begin_turn()
        elif isinstance(event, Seen):
            self._process(self._inputs.seen())
        elif isinstance(event, Dropped):
            for time in event.times:
                self._drop(time)
        elif isinstance(event, Text):
            self._speech.say(event.text)
        elif isinstance(event, Silence) and not event.inserted:
            self._speech.fall_silent(*self._last)
        elif isinstance(event, Interrupted):
            self._speech.settle("interrupted", "interrupt")
        elif isinstance(event, Limit):
            self._speech.settle("length", "limit")
        elif isinstance(event, Decision) and not event.goes_on:
            self._speech.settle("stop", "silence")
        elif isinstance(event, RolledOver):
            told = {"kept_tokens": event.kept_tokens, "kept_frames": event.kept_frames, "reason": event.reason}
            self._send("session.rolled_over", timestamp=event.time, **told)
        elif isinstance(event, Closed):
            self._closed(event)
        self._tell_usage()

    def _begin_turn(self) -> None:
        one = self._inputs.turned()
        if one is not None:
            one.turned = self._speech.turn(one.seq_no)
            if not one.is_frame:
                self._process(one)

    def _process(self, one: Input | None) -> None:
        """The model has processed an input."""
        if one is None:
            return
        message = one.message
        time = message.timestamp if isinstance(message, schemas.InputFrame) else self._last[1]
        self._last = one.seq_no, time
        told: dict[str, Any] = {"seq_no": one.seq_no, "timestamp": time, "final": message.final}
        if one.turned is not None:
            told |= {"interrupted_turn_id": one.turned[0], "turn_id": one.turned[1]}
        self._send(f"{message.type}.processed", **told, pending_events=self._inputs.pending)
        self._go_on(self._inputs.freed())

    def _drop(self, time: float) -> None:
        """A frame that was accepted is dropped; what was asked with it is asked without."""
        one = self._inputs.dropped(time)
        if one is not None:
            reason = f"the frame at {time:g} s was dropped: the context has no room for it"
            self._send("input.frame.rejected", seq_no=one.seq_no, reason=reason)
            self._go_on(self._inputs.freed())

    def _tell_usage(self) -> None:
        wanted = self._configured is not None and self._configured.include_usage and not self._ending
        if wanted and self.now() >= self._usage_due:
            self._usage_due = self.now() + USAGE_SECONDS
            self._send("session.usage", **telemetry(self.usage()))

    # --- the end -------------------------------------------------------------------------------------------------

    def stopping(self) -> None:
        self._end("error", RequestError(503, "response_failed", "the server is being stopped"), STOPPING)

    def _end(self, reason: str, error: Exception | None = None, code: int = NORMAL) -> None:
        """Ask for the end of the session, or close a connection that has none."""
        if self._ending:
            return
        self._ending, self._ends, self.deadline = True, (reason, error, code), None
        if self._configured is not None:
            self.acts.append(End())
        else:
            self._finish(reason, error, code, [])

    def _closed(self, event: Closed) -> None:
        """The session has ended."""
        if event.reason == "closed":
            self._finish(*self._ends, event.prefill)
        elif event.reason == "idle":
            idle = RequestError(408, "session_timeout", f"no input came for {self.config.live_idle:g} seconds")
            self._finish("error", idle, POLICY, event.prefill)
        elif event.error is not None:
            code = FAILED
            reason = "context_exhausted" if isinstance(event.error, ContextLengthError) else "error"
            self._finish(reason, event.error, code, event.prefill)
        else:
            self._speech.settle("stop", "request_end")
            self._finish("completed", None, NORMAL, event.prefill)

    def _finish(self, reason: str, error: Exception | None, code: int, prefill: Sequence[Mapping[str, str]]) -> None:
        self._ending = True
        if error is not None:
            self._send("error", code=code_of(error), message=words_of(error))
        self._send(
            "session.done",
            **self._ids,
            reason=reason,
            aborted=reason == "aborted",
            usage=counted(self.usage()),
            prefill_messages=shortened(prefill),
        )
        self._close(code, reason)

    # --- refusals ------------------------------------------------------------------------------------------------

    def _refuse(self, error: Exception, given: Any = None) -> None:
        if self._ending:
            return
        given = given.model_dump() if isinstance(given, BaseModel) else given if isinstance(given, dict) else {}
        number = given.get("seq_no")
        number = number if isinstance(number, int) and not isinstance(number, bool) else None
        place = {} if number is None else {"seq_no": number}
        self._send("error", code="invalid_request", message=words_of(error), **place)
        if given.get("type") == "input.frame":
            self._send("input.frame.rejected", seq_no=number, reason=words_of(error))
        if self._too_many_refused():
            self._end("error", invalid("too many refused messages in a row"), POLICY)


def history(message: schemas.Configure, prefill: Sequence[schemas.PrefillMessage]) -> list[dict[str, str]]:
    """The messages from which a session goes on: with the system prompt and the prompt, where they are given."""
    messages = [one.model_dump() for one in prefill]
    if message.system_prompt:
        messages = [one for one in messages if one["role"] != "system"]
        messages.insert(0, {"role": "system", "content": message.system_prompt})
    if message.prompt or not any(one["role"] == "user" for one in messages):
        messages.append({"role": "user", "content": message.prompt})
    return messages


def code_of(error: Exception) -> str:
    """The protocol's code of an error that ends a session."""
    if isinstance(error, ContextLengthError):
        return "context_exhausted"
    code = refusal(error).code
    return code if code in ("session_timeout", "invalid_request") else "response_failed"
