"""The published loops of realtime sessions: dicts, or frames and prompts, come on queues, and strings leave on one."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mossvl.errors import InputError, message_of
from mossvl.offline.realtime import FRAMES, RATE, MossVLRealtimeSession, Parts, WithEngine, parts_of
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.query import as_list

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.005
"""How often two queues are looked at."""
STOPS = ("stop_online_generate", "stop_realtime_generate", "stop_generation")
RESETS = ("reset_session", "clear_history")
SETTINGS = ("initial_prompt", "system_prompt", "frame_queue_size", "max_tokens_per_turn", "generate_kwargs")
Frame = tuple[Any, float | None]


class OnlineLoop:
    """Takes dicts from one queue, and puts a session's strings on another, until it is told to stop.

    What cannot be used puts `[ERROR] message` on the output queue, and the loop goes on.
    """

    def __init__(
        self,
        model: WithEngine,
        processor: MossVLProcessor,
        queries: "queue.Queue[Any]",
        output: "queue.Queue[str]",
        frame_queue_size: int = FRAMES,
        max_tokens_per_turn: int = RATE,
        **generate_kwargs: Any,
    ) -> None:
        self.model, self.processor, self.queries, self.output = model, processor, queries, output
        self.defaults = {"frame_queue_size": frame_queue_size, "max_tokens_per_turn": max_tokens_per_turn}
        self.generate_kwargs = generate_kwargs
        self._session: MossVLRealtimeSession | None = None
        self._pump: threading.Thread | None = None

    def run(self) -> None:
        """Go on until a dict with one of `STOPS` comes."""
        try:
            while True:
                message = self.queries.get()
                if not isinstance(message, Mapping):
                    logger.warning("ignored a message that is not a dict: %r", type(message).__name__)
                    continue
                if any(message.get(name) for name in STOPS):
                    return
                try:
                    self._receive(message)
                except Exception as error:
                    logger.info("a message could not be used", exc_info=True)
                    self.output.put(f"[ERROR] {message_of(error)}")
        finally:
            self._end()

    def _receive(self, message: Mapping[str, Any]) -> None:
        ended = self._session is not None and not self._session.active
        if self._session is None or ended or any(message.get(name) for name in RESETS):
            self._begin(message)
        assert self._session is not None
        prompts, frames = payload(message)
        if prompts or frames:
            drop_oldest = message.get("drop_oldest", True)
            self._session.push_event(
                {"type": "batch", "events": [*({"type": "prompt", "prompt": one} for one in prompts), *frames]},
                drop_oldest=bool(drop_oldest),
            )

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._end()
        given = {name: message[name] for name in SETTINGS if message.get(name) is not None}
        sampling = {**self.generate_kwargs, **given.pop("generate_kwargs", {})}
        session = MossVLRealtimeSession(self.model, self.processor, **{**self.defaults, **given}, **sampling).start()
        self._session = session
        self._pump = threading.Thread(target=pump, args=(session, self.output), name="mossvl-online", daemon=True)
        self._pump.start()

    def _end(self) -> None:
        """End the session, once all that it has said is on the output queue."""
        if self._session is not None:
            self._session.close()
        if self._pump is not None:
            self._pump.join(5.0)
        self._session = self._pump = None


def pump(session: MossVLRealtimeSession, output: "queue.Queue[str]") -> None:
    """Put a session's strings on a queue, until it has ended."""
    try:
        for text in session.stream_outputs(1.0):
            output.put(text)
    except Exception as error:
        output.put(f"[ERROR] {message_of(error)}")


def payload(message: Mapping[str, Any]) -> Parts:
    """The prompts and frames of a dict of `online_generate`.

    Raises:
        InputError: they cannot be used.
    """
    prompts: list[str] = []
    frames: list[Frame] = []
    events = [message["event"]] if message.get("event") is not None else []
    for event in [*events, *as_list(message.get("events"))]:
        more = parts_of(event)
        prompts, frames = prompts + more[0], frames + more[1]
    for name in ("prompt", "text"):
        if message.get(name) is not None:
            prompts.append(message[name])
    frames += [frame_of(one) for one in as_list(message.get("frames"))]
    for name in ("image", "frame"):
        if message.get(name) is not None:
            frames.append((message[name], message.get("timestamp")))
    return prompts, frames


def frame_of(given: Any) -> Frame:
    """An image and its time, which are given as an image, (image, time), or a dict."""
    if isinstance(given, Mapping):
        image = given.get("image") if given.get("image") is not None else given.get("frame")
        if image is None:
            raise InputError(f"a frame has no image, but {', '.join(map(str, given)):.200}; give image and timestamp")
        time = given.get("timestamp")
        return image, given.get("time") if time is None else time
    return (given[0], given[1]) if isinstance(given, tuple | list) and len(given) == 2 else (given, None)


def real_time_loop(
    session: MossVLRealtimeSession,
    frames: "queue.Queue[Any]",
    prompts: "queue.Queue[str]",
    output: "queue.Queue[str]",
    stopped: Callable[[], bool],
) -> None:
    """Give a session all that comes on two queues, whole, until `stopped`; put its strings on a third.

    Raises:
        Exception: that with which the session has failed, or an input that it refuses.
    """
    with session:
        teller = threading.Thread(target=pump, args=(session, output), name="mossvl-online", daemon=True)
        teller.start()
        while session.active and not stopped():
            asked = emptied(prompts)
            seen = [
                {"type": "frame", "image": image, "timestamp": time} for image, time in map(frame_of, emptied(frames))
            ]
            if asked or seen:
                events = [*({"type": "prompt", "prompt": one} for one in asked), *seen]
                session.push_event({"type": "batch", "events": events})
            else:
                threading.Event().wait(POLL_SECONDS)
    teller.join(5.0)
    if session.error is not None:
        raise session.error


def emptied(given: "queue.Queue[Any]") -> list[Any]:
    """All that waits in a queue."""
    found = []
    try:
        while True:
            found.append(given.get_nowait())
    except queue.Empty:
        return found
