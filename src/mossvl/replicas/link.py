"""The pipe to a replica's process, and the queries that the replica answers."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from mossvl.errors import GenerationCancelled, MossVLError, PromptError, ReplicaError, message_of
from mossvl.media.limits import MediaLimits
from mossvl.options import SamplingParams
from mossvl.queries.handle import Handle
from mossvl.queries.text_stream import Tokenizer
from mossvl.replicas.baggage import pack, send
from mossvl.replicas.news import ASK_AGAIN, End, take_in, unpack

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds between the end of a replica's pipe and that of its process, after which the process is killed."""


class RemoteHandle(Handle):
    """Handle of a query that another process answers.

    Args:
        cancelled: called when the query is cancelled.
    """

    def __init__(
        self,
        params: SamplingParams,
        tokenizer: Tokenizer,
        whole_characters: bool,
        calls: Collection[str],
        cancelled: Callable[[], None],
    ) -> None:
        super().__init__(params, tokenizer, whole_characters, calls)
        self._cancelled = cancelled

    def cancel(self) -> None:
        super().cancel()
        self._cancelled()


@dataclass(eq=False)
class Ask:
    """A query on its way to a replica.

    Attributes:
        given: query, messages, parameters, and whether characters are whole, as for `Engine.submit`.
        tokens: estimate of its size, for the router.
        submitted: when, in seconds of `time.monotonic`, which all processes of a machine share.
        link, number: to the replica, and the query's number there, once there is one.
    """

    handle: Handle
    given: tuple[Any, ...]
    limits: MediaLimits
    folder: str | None
    key: bytes
    tokens: int
    submitted: float
    link: "Link | None" = None
    number: int = 0


def cancelled() -> MossVLError:
    """Return the error of a query that was cancelled."""
    return GenerationCancelled("cancelled before the answer was complete")


class Link:
    """The pipe to a replica's process: one thread sends queries, one takes in what the replica tells of them.

    Args:
        replica: its number.
        ended: called with each query that has ended, before its readers are woken.
        kill: kills the process.

    Attributes:
        heard, silent: see `Beating`.
        warm: whether the replica may get queries.
    """

    def __init__(self, replica: int, pipe: Connection, ended: Callable[[Ask], None], kill: Callable[[], None]) -> None:
        self.replica, self._pipe, self._ended, self.kill = replica, pipe, ended, kill
        self.heard, self.silent, self.warm = time.monotonic(), False, False
        self._asks: dict[int, Ask] = {}
        self._calls: dict[int, Future[None]] = {}
        self._numbers = count(1)
        self._outbox: SimpleQueue[tuple[str, int, Ask | None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._gone = False
        """Whether the pipe has ended: nothing is asked any more."""
        self._over = threading.Event()
        self._reason: str | None = None
        self._threads = [
            threading.Thread(target=work, name=f"mossvl-replica-{replica}", daemon=True)
            for work in (self._send_all, self._hear_all)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def asks(self) -> list[Ask]:
        """The queries that have not ended."""
        return list(self._asks.values())

    def ask(self, ask: Ask) -> bool:
        """Send a query; return False if the replica is gone."""
        with self._lock:
            if self._gone:
                return False
            ask.link, ask.number = self, next(self._numbers)
            self._asks[ask.number] = ask
        self._outbox.put(("ask", ask.number, ask))
        return True

    def cancel(self, ask: Ask) -> None:
        """Cancel a query."""
        self._outbox.put(("cancel", ask.number, None))

    def call(self, kind: str) -> "Future[None]":
        """Have the replica do something, and return what ends with it."""
        called: Future[None] = Future()
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = called
            gone = self._gone
        if gone:
            self._end(End(number, error=self._error()))
        self._outbox.put((kind, number, None))
        return called

    def over(self, reason: str | None) -> None:
        """The process has ended: for a reason, with subject and verb, or as was asked (None)."""
        self._reason = reason
        self._over.set()

    def join(self) -> None:
        """Wait until all queries have ended, once the process has."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(PATIENCE)

    # --- threads -------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        with suppress(OSError):  # The other thread notices, too.
            while (message := self._outbox.get()) is not None:
                kind, number, ask = message
                if ask is None:
                    send(self._pipe, kind, number)
                elif ask.handle.cancel_requested:
                    self._end(End(number, error=cancelled()))
                else:
                    self._send(ask)

    def _send(self, ask: Ask) -> None:
        try:
            body, buffers = pack((*ask.given, ask.submitted, ask.limits, ask.folder), ask.limits)
        except Exception as error:
            if not isinstance(error, MossVLError):
                error = PromptError(f"the query cannot be sent to another process: {message_of(error)}")
            self._end(End(ask.number, error=error.with_traceback(None)))
            return
        send(self._pipe, "ask", ask.number, body, buffers)

    def _hear_all(self) -> None:
        try:
            while True:
                self._hear(self._pipe.recv_bytes())
        except (EOFError, OSError):  # The process ends.
            pass
        except Exception:
            logger.exception("what replica %d tells cannot be read", self.replica)
            self.kill()
        with self._lock:
            self._gone = True
        self._outbox.put(None)
        if not self._over.wait(PATIENCE):
            self.kill()
            self._over.wait(PATIENCE)
        for number in [*self._asks, *self._calls]:
            self._end(End(number, error=self._error()))
        self._pipe.close()

    def _hear(self, message: bytes) -> None:
        self.heard = time.monotonic()
        changed: dict[int, Handle] = {}
        for news in unpack(message):
            if isinstance(news, End):
                changed.pop(news.query, None)
                self._end(news)
            elif (ask := self._asks.get(news.query)) is not None:
                take_in(ask.handle, news)
                changed[news.query] = ask.handle
        for handle in changed.values():
            handle.changed()

    def _end(self, end: End) -> None:
        """End a query or call, once."""
        with self._lock:
            ask, called = self._asks.pop(end.query, None), self._calls.pop(end.query, None)
        if ask is not None:
            take_in(ask.handle, end)
            self._ended(ask)
            ask.handle.end(end.error)
        if called is not None:
            called.set_exception(end.error) if end.error is not None else called.set_result(None)

    def _error(self) -> MossVLError:
        if self._over.is_set() and self._reason is None:
            return cancelled()
        reason = self._reason or f"replica {self.replica} has closed its pipe"
        return ReplicaError(f"{reason} before the answer was complete", advice=ASK_AGAIN)
