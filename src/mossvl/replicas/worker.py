"""The process of one of a pool's replicas: an engine that is asked, and tells, over a pipe."""

import logging
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import NoReturn

from transformers.utils import logging as transformers_logging

from mossvl.engine.engine import Engine
from mossvl.loading import load
from mossvl.options.engine import EngineConfig
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.handle import Handle
from mossvl.replicas.baggage import receive, unpack
from mossvl.replicas.beats import BEAT
from mossvl.replicas.living import tell_ready
from mossvl.replicas.news import End, Followed, News, pack, sendable

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class Setup:
    """What a replica is made of.

    Attributes:
        processor: pickled.
    """

    folder: str
    config: EngineConfig
    processor: bytes


def serve(pipe: Connection, number: int, setup: Setup) -> None:
    """Load the checkpoint and answer queries, until the pipe is closed or SIGTERM comes.

    Raises:
        MossVLError: the checkpoint cannot be loaded.
    """
    transformers_logging.set_verbosity_error()  # The process that started this one has read the same files.
    transformers_logging.disable_progress_bar()
    config = setup.config
    model, _ = load(
        setup.folder,
        config.device,
        config.dtype,
        progress=False,
        quantization=config.quantization,
        tensor_parallel_size=config.tensor_parallel_size,
    )
    engine = Engine(model, config)
    processor: MossVLProcessor = pickle.loads(setup.processor)
    signal.signal(signal.SIGTERM, _stop)
    tell_ready(pipe)
    teller = Teller(pipe, engine)
    try:
        _serve(pipe, engine, processor, teller)
    except SystemExit:
        os._exit(0)  # There is nothing left to do, and Python would take long to take its objects apart.


def _serve(pipe: Connection, engine: Engine, processor: MossVLProcessor, teller: "Teller") -> NoReturn:
    """Answer queries; at SIGTERM and at the end of the pipe, end them, and tell of it."""
    try:
        while True:
            _answer(pipe, engine, processor, teller)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        engine.close(CLOSING_SECONDS)
        teller.close()


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(0)


def _answer(pipe: Connection, engine: Engine, processor: MossVLProcessor, teller: "Teller") -> None:
    """Wait for a message, and do what it asks for."""
    kind, number, parts = receive(pipe)
    match kind:
        case "ask":
            try:
                query, messages, params, whole_characters, submitted, processor.limits, folder = unpack(parts)
                if folder is not None:  # Relative paths are those of the process that asks.
                    os.chdir(folder)
                teller.follow(number, engine.submit(query, messages, processor, params, whole_characters, submitted))
            except Exception as error:
                teller.end(number, error)
        case "cancel":
            teller.cancel(number)
        case "warm up":
            try:
                engine.warm_up(shown=False)
                teller.end(number, None)
            except Exception as error:
                teller.end(number, error)


class Teller:
    """Sends what is new of queries, in a thread of its own: of all that have changed meanwhile, in one message.

    Once the engine has failed, it ends the process, which would refuse every further query: another one is started.
    """

    def __init__(self, pipe: Connection, engine: Engine) -> None:
        self._pipe, self._engine = pipe, engine
        self._changed: SimpleQueue[int] = SimpleQueue()
        self._followed: dict[int, Followed] = {}
        self._ended: dict[int, BaseException | None] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mossvl-teller", daemon=True)
        self._thread.start()

    def follow(self, number: int, handle: Handle) -> None:
        """Tell of a query until it has ended."""
        self._followed[number] = Followed(number, handle)
        handle.listen(partial(self._changed.put, number))

    def end(self, number: int, error: BaseException | None) -> None:
        """Tell that what was not followed has ended, with its error, if any."""
        self._ended[number] = error
        self._changed.put(number)

    def cancel(self, number: int) -> None:
        """Cancel a query, unless it has ended."""
        if (followed := self._followed.get(number)) is not None:
            followed.handle.cancel()

    def close(self) -> None:
        """Tell what is left to tell, and end the thread."""
        self._closing = True
        self._changed.put(-1)
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        try:
            while not self._closing or not self._changed.empty():
                news = [one for number in self._waited() for one in self._news(number)]
                self._pipe.send_bytes(pack(news))  # If there is none, it is a beat.
                if self._engine.broken is not None:
                    logger.error("a replica ends: %s", self._engine.broken)
                    os._exit(1)
        except OSError:  # The other end is closed: nobody listens any more.
            pass
        except Exception:  # Queries would wait for ever.
            logger.exception("a replica cannot tell of its queries")
            os._exit(1)

    def _waited(self) -> dict[int, None]:
        """Wait until something has changed, or it is time for a beat; return the numbers of all that has."""
        changed: dict[int, None] = {}
        with suppress(Empty):
            changed[self._changed.get(timeout=BEAT)] = None
            while True:
                changed[self._changed.get_nowait()] = None
        return changed

    def _news(self, number: int) -> list[News]:
        if number in self._ended:
            error = self._ended.pop(number)
            return [End(number, error=None if error is None else sendable(error))]
        followed = self._followed.get(number)
        if followed is None:  # Its end was told.
            return []
        news = list(followed.news())
        if news and isinstance(news[-1], End):
            del self._followed[number]
        return news
