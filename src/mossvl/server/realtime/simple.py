"""The simple protocol of live sessions, as published: `start`, frames and prompts; raw output."""

from collections.abc import Callable, Sequence
from typing import Any

from mossvl.live.events import Closed, LiveEvent
from mossvl.live.options import LiveOptions
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal
from mossvl.server.realtime.ends import FAILED, NORMAL, POLICY, STOPPING, TRY_LATER
from mossvl.server.realtime.protocol import (
    Begin,
    End,
    Interrupt,
    Play,
    Protocol,
    Push,
    Say,
    StopPlaying,
    asked,
    check_image,
    invalid,
    words_of,
)
from mossvl.server.schemas import realtime as schemas

START_SECONDS = 30.0
UNLIMITED = schemas.UNLIMITED
TOO_MANY = "too many refused messages"
CODES = {"stopping": STOPPING, TOO_MANY: POLICY}
"""Codes with which connections are closed, by reasons of their ends that are not normal."""


class SimpleProtocol(Protocol):
    """`WS /v1/realtime`. Beyond what is published: errors have a `code`, and the model can be interrupted."""

    forms = {
        "start": schemas.Start,
        "frame": schemas.SimpleFrame,
        "prompt": schemas.SimplePrompt,
        "video": schemas.PlayVideo,
        "stop_video": schemas.StopVideo,
        "interrupt": schemas.InterruptSpeech,
        "ping": schemas.Ping,
        "stop": schemas.Stop,
    }

    def __init__(self, config: ServerConfig, now: Callable[[], float]) -> None:
        super().__init__(config, now)
        self._started = self._ready = self._ending = self._playing = False
        self._why = "closed"
        """Why the session ends, where its own reason is that it was closed."""
        self._announced: schemas.SimpleFrame | None = None
        """The frame whose image comes next."""
        self._asked: Push | Say | None = None
        """What the session is being given."""

    def opened(self) -> None:
        self.deadline = self.now() + START_SECONDS

    def full(self, error: RequestError) -> None:
        self._fail(error, TRY_LATER)

    def late(self) -> None:
        self.deadline = None
        self._fail(RequestError(408, "timeout", f"no start came within {START_SECONDS:g} seconds"), POLICY)

    # --- messages ------------------------------------------------------------------------------------------------

    def message(self, message: Any) -> None:
        if self._ending:
            return
        if isinstance(message, schemas.Ping):
            self._send("pong")
        elif isinstance(message, schemas.Start):
            self._start(message)
        elif isinstance(message, schemas.Stop):
            self._send("stopping")
            self._end("stopped")
        elif not self._ready:
            self._refuse(invalid(f"{message.type} before start; the first message has the type 'start'"))
        elif isinstance(message, schemas.SimpleFrame):
            if self._announced is not None:
                self._refuse(invalid("a frame was announced, and its image has not come; the newer frame replaces it"))
            self._announced = message
        elif isinstance(message, schemas.SimplePrompt):
            self._say(message.text)
        elif isinstance(message, schemas.PlayVideo):
            self._play(message)
        elif isinstance(message, schemas.StopVideo):
            self.acts.append(StopPlaying())
            self._send("stop_video_ack")
        else:
            self.acts.append(Interrupt())
            self._send("interrupt_ack")

    def binary(self, data: bytes) -> None:
        frame, self._announced = self._announced, None
        if self._ending:
            return
        try:
            if frame is None:
                raise invalid("an image must follow a message of type 'frame'")
            check_image(data, self.config.live_frame_bytes)
        except RequestError as error:
            self._refuse(error)
            return
        self._give(Push(data, frame.timestamp, asked(frame.prompt) or asked(frame.text)))

    def _start(self, start: schemas.Start) -> None:
        if self._started:
            self._refuse(invalid("the session was started already; open another connection for another one"))
            return
        self._started, self.deadline = True, None
        rate = start.max_tokens_per_second
        try:
            options = LiveOptions(
                queue=start.frame_queue_size,
                tokens_per_second=None if rate >= UNLIMITED else rate,
                max_new_tokens=start.max_new_tokens,
                inserted_silence="published",
                idle_timeout=self.config.live_idle,
                do_sample=start.do_sample,
                temperature=start.temperature,
                top_k=start.top_k,
                top_p=start.top_p,
                repetition_penalty=start.repetition_penalty,
            )
        except Exception as error:
            self.failed(error)
            return
        self.acts.append(Begin(start.prompt, start.system_prompt, options))

    def _say(self, text: str) -> None:
        if asked(text) is None:
            self._refuse(invalid("prompt.text must not be empty", "text"))
        else:
            self._give(Say(text))

    def _play(self, video: schemas.PlayVideo) -> None:
        if self._playing:
            self._refuse(invalid("a video is being played; send stop_video first"))
            return
        self._playing = True
        self.acts.append(Play(video))

    def _give(self, act: Push | Say) -> None:
        self._asked = act
        self.acts.append(act)

    # --- the session ---------------------------------------------------------------------------------------------

    def begun(self) -> None:
        self._ready = True
        self._send("ready")

    def pushed(self, dropped: Sequence[float] = (), pending: int = 0) -> None:
        given, self._asked = self._asked, None
        self._taken()
        if isinstance(given, Say):
            self._send("prompt_ack")
        else:
            self._send("frame_ack", dropped_oldest=bool(dropped), pending_frames=pending)

    def failed(self, error: Exception) -> None:
        if self._ready:
            self._asked = None
            self._refuse(error)
        else:
            refused = refusal(error)
            self._fail(error, TRY_LATER if refused.status == 503 else FAILED if refused.status >= 500 else POLICY)

    def broken(self, error: Exception) -> None:
        self._fail(error, FAILED)

    def told(self, event: LiveEvent) -> None:
        if event.raw:
            self._send("output", text=event.raw)
        if isinstance(event, Closed):
            if event.error is not None:
                self._error(event.error)
            self._ending = True
            reason = self._why if event.reason == "closed" else event.reason
            self._send("session_end", reason=reason, prefill=event.prefill)
            self._close(FAILED if event.error is not None else CODES.get(reason, NORMAL), reason)

    def playing(self, path: str) -> None:
        if not self._ending:
            self._send("video_started", path=path)

    def played(self, sent: int, dropped: int, error: Exception | None) -> None:
        self._playing = False
        if self._ending:
            return
        if error is None:
            self._send("video_end", frames_sent=sent, frames_dropped=dropped)
        else:
            self._send("error", message=f"Video source failed: {words_of(error)}", code=refusal(error).code)

    def stopping(self) -> None:
        self._end("stopping")

    # --- the end -------------------------------------------------------------------------------------------------

    def _end(self, why: str) -> None:
        if self._ending:
            return
        self._ending, self._why = True, why
        if self._started:
            self.acts.append(End())
        else:
            self._close(STOPPING if why == "stopping" else NORMAL, why)

    def _error(self, error: Exception) -> None:
        self._send("error", message=words_of(error), code=refusal(error).code)

    def _fail(self, error: Exception, code: int) -> None:
        self._ending = True
        self._error(error)
        self._close(code, refusal(error).code)

    def _refuse(self, error: Exception, given: Any = None) -> None:
        if self._ending:
            return
        self._error(error)
        if not self._started:  # As published: nothing but a start may come first.
            self._ending = True
            self._close(POLICY, "invalid_request")
        elif self._too_many_refused():
            self._end(TOO_MANY)
