"""The queue protocol: queries come in on one queue, answers leave on another, one turn after the other."""

import logging
import queue
from collections import deque
from collections.abc import Iterator
from typing import Any

from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.ahead import POLL_SECONDS
from mossvl.offline.batch import run
from mossvl.offline.query import CONTROLS, Message, Query
from mossvl.offline.request import Request, message_of
from mossvl.processing.processor import MossVLProcessor

logger = logging.getLogger(__name__)

ROUND_START, ROUND_END = "<|round_start|>", "<|round_end|>"


class OfflineLoop:
    """Takes turns from `queries` and puts their answers on `answers`, until it is told to stop.

    One session runs through all turns. A turn that fails leaves it as it was, and the next one works.
    """

    def __init__(
        self,
        model: MossVLLMHeadModel,
        processor: MossVLProcessor,
        queries: "queue.Queue[Any]",
        answers: "queue.Queue[str]",
        **generation_defaults: Any,
    ) -> None:
        self.model = model
        self.processor = processor
        self.queries = queries
        self.answers = answers
        self.generation_defaults = generation_defaults
        self.session: list[Message] = []
        self.stopping = False
        self._waiting: deque[dict[str, Any]] = deque()
        self._current: Request | None = None

    def run(self) -> None:
        """Serve until a `stop_offline_generate` message comes."""
        while not self.stopping:
            if self._waiting:
                self._turn(self._waiting.popleft())
            else:
                self._receive(self.queries.get())

    def _receive(self, message: Any) -> None:
        """Obey a control message, keep a query for its turn, ignore anything else."""
        if not isinstance(message, dict):
            logger.warning("ignored a message that is not a dict: %r", type(message).__name__)
            return
        self.stopping = self.stopping or bool(message.get("stop_offline_generate"))
        if self._current is not None and any(message.get(name) for name in CONTROLS):
            self._current.cancelled.set()
        rest = {name: value for name, value in message.items() if name not in CONTROLS}
        if rest:
            self._waiting.append(rest)

    def _listen(self) -> None:
        """Read what has come in while a turn runs."""
        while True:
            try:
                self._receive(self.queries.get_nowait())
            except queue.Empty:
                return

    def _turn(self, given: dict[str, Any]) -> None:
        try:
            query = Query.from_dict(given, **self.generation_defaults)
            request = Request(0, query, query.messages(self.session), self.processor, interrupted=self._listen)
            self._current = request
            self._answer(request)
        except Exception as error:
            logger.info("a turn failed", exc_info=True)
            self._put(f"[ERROR] {message_of(error)}")
        finally:
            self._put(ROUND_END)
            self._current = None

    def _put(self, text: str) -> None:
        """Put text out; nobody may be reading any more when the loop is told to stop."""
        while True:
            try:
                return self.answers.put(text, timeout=POLL_SECONDS)
            except queue.Full:
                self._listen()
                if self.stopping:
                    return None

    def _answer(self, request: Request) -> None:
        for chunk in self._chunks(request):
            if request.query.stream and chunk:
                self._put(chunk)
        answer = request.text.text
        if request.error is not None and not request.was_cancelled:
            raise request.error
        if not request.query.stream:
            self._put(answer)
        if not request.was_cancelled or request.query.persist_cancelled_turn:
            self.session = request.query.session_after(self.session, answer)

    def _chunks(self, request: Request) -> Iterator[str]:
        started = False
        for _, chunk, _ in run(self.model, [request]):
            if request.query.stream and not started and (request.error is None or request.was_cancelled):
                self._put(ROUND_START)
                started = True
            yield chunk
