"""The queue protocol: queries come in on one queue and answers leave on another, one turn at a time."""

import logging
import queue
from collections import deque
from typing import Any

from mossvl.engine.engine import Engine
from mossvl.errors import message_of
from mossvl.offline.query import CONTROLS, SessionQuery
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
ROUND_START, ROUND_END = "<|round_start|>", "<|round_end|>"


class OfflineLoop:
    """Answers the queries of one queue on another, as turns of one session, until a control message stops the loop.

    A turn that fails leaves the session unchanged, and the loop continues.
    """

    def __init__(
        self,
        engine: Engine,
        processor: MossVLProcessor,
        queries: "queue.Queue[Any]",
        answers: "queue.Queue[str]",
        **generation_defaults: Any,
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.queries = queries
        self.answers = answers
        self.generation_defaults = generation_defaults
        self.session: list[Message] = []
        self.stopping = False
        self._waiting: deque[dict[str, Any]] = deque()
        self._current: Handle | None = None

    def run(self) -> None:
        """Answer queries until a `stop_offline_generate` message comes."""
        while not self.stopping:
            if self._waiting:
                self._turn(self._waiting.popleft())
            else:
                self._receive(self.queries.get())

    def _receive(self, message: Any) -> None:
        """Carry out a control message, queue a query, or ignore any other message."""
        if not isinstance(message, dict):
            logger.warning("ignored a message that is not a dict: %r", type(message).__name__)
            return
        self.stopping = self.stopping or bool(message.get("stop_offline_generate"))
        if self._current is not None and any(message.get(name) for name in CONTROLS):
            self._current.cancel()
        rest = {name: value for name, value in message.items() if name not in CONTROLS}
        if rest or not message:
            self._waiting.append(rest)

    def _listen(self) -> None:
        """Receive the messages that came during the running turn, without blocking."""
        while True:
            try:
                self._receive(self.queries.get_nowait())
            except queue.Empty:
                return

    def _turn(self, given: dict[str, Any]) -> None:
        try:
            query = SessionQuery.for_text(given, **self.generation_defaults)
            self._current = self.engine.submit(query, query.messages(self.session), self.processor)
            self._answer(query, self._current)
        except Exception as error:
            logger.info("a turn failed", exc_info=True)
            self._put(f"[ERROR] {message_of(error)}")
        finally:
            if self._current is not None and not self._current.ended:
                self._current.cancel()
            self._put(ROUND_END)
            self._current = None

    def _put(self, text: str) -> None:
        """Put text on the answer queue; while the queue is full, receive messages, and give up when told to stop."""
        while True:
            try:
                return self.answers.put(text, timeout=POLL_SECONDS)
            except queue.Full:
                self._listen()
                if self.stopping:
                    return None

    def _answer(self, query: SessionQuery, handle: Handle) -> None:
        started = False
        for chunk in handle.chunks(POLL_SECONDS):
            self._listen()
            if query.stream and chunk:
                if not started:
                    self._put(ROUND_START)
                started = True
                self._put(chunk)
        result = handle.wait()
        if result.error is not None and not handle.was_cancelled:
            raise result.error
        if query.stream and not started:
            self._put(ROUND_START)
        if not query.stream:
            self._put(result.text)
        self.session = query.session_after_result(self.session, result)
