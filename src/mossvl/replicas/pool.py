"""Replicas of a checkpoint for one Python process: each an engine in a process of its own."""

import atexit
import logging
import math
import os
import pickle
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection

from mossvl.errors import EngineError, GenerationTimeout, InputError, MossVLError
from mossvl.options import SamplingParams
from mossvl.options.engine import EngineConfig
from mossvl.processing.messages import check_messages
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query
from mossvl.replicas.beats import Beats
from mossvl.replicas.link import Ask, Link, RemoteHandle, cancelled
from mossvl.replicas.processes import Replicas
from mossvl.replicas.replica import Patience, Replica
from mossvl.replicas.routing import AMPLE, SKEW, Router
from mossvl.replicas.shares import shares
from mossvl.replicas.sticking import key_of, size_of
from mossvl.replicas.worker import Setup, serve

logger = logging.getLogger("mossvl.replicas")

PATIENCE = Patience(tries=3, early=math.inf, stop=10.0)
"""A replica that was ready is not given up: it may be a query that kills it, and each does so a few times at most."""
REMEMBERED = 1 << 16
"""Beginnings of conversations whose replica is remembered."""


class Pool:
    """Engines in processes of their own, which answer queries as one engine does (see `Engine`).

    A query goes to the replica that has had its beginning (see `key_of`), if that one has room, or else to the replica
    with the fewest outstanding tokens. A replica that dies fails its own queries with a ReplicaError, and is started
    again; while no replica is ready, queries wait.

    Args:
        folder: of the checkpoint.
        size: number of replicas.

    Raises:
        EngineError: a process cannot be started, or has died while it was loading.
        OptionError: there are fewer GPUs than the replicas need.
        MossVLError: the checkpoint cannot be loaded.
    """

    def __init__(self, folder: str, processor: MossVLProcessor, config: EngineConfig, size: int) -> None:
        self._router = Router(config.max_batch)
        self._homes: dict[bytes, int] = {}
        self._links: dict[int, Link] = {}
        self._held: deque[Ask] = deque()
        self._changed = threading.Condition(threading.RLock())
        self._given_up: dict[int, MossVLError] = {}
        self._begun = self._warm = self._closed = False
        self._process = os.getpid()
        setup = Setup(folder, config, pickle.dumps(processor))
        parts = shares(size, config.tensor_parallel_size, config.device)
        self._beats = Beats(self._linked, self._beating)
        self._replicas = Replicas(serve, (setup,), parts, self, PATIENCE)
        _pools.add(self)
        try:
            self._replicas.start()
            atexit.register(self.close)  # Before that of the processes, which would seem to have died.
            self._wait_until_ready(size)
        except BaseException:
            self.close()
            raise

    def submit(
        self,
        query: Query,
        messages: list[Message],
        processor: MossVLProcessor,
        params: SamplingParams | None = None,
        whole_characters: bool = False,
    ) -> Handle:
        """Answer a query; arguments are those of `Engine.submit`.

        Errors that only the model knows of, such as a token beyond its vocabulary, are in the result.

        Raises:
            EngineError: the pool is closed, its replicas cannot be started any more, or this process was forked.
        """
        self._check()
        asked = query.generation if params is None else params
        key, tokens = b"", asked.max_new_tokens
        with suppress(InputError):  # It is the query's own error, which a replica tells.
            checked = check_messages(messages)
            key, tokens = key_of(checked, query.lora), size_of(checked, asked)
        given = (query, messages, params, whole_characters)
        handle = RemoteHandle(
            asked, processor.tokenizer, whole_characters, query.ending_calls, lambda: self._cancel(ask)
        )
        ask = Ask(handle, given, processor.limits, _folder(), key, tokens, time.monotonic())
        with self._changed:
            self._check()
            if not self._give(ask):
                self._hold(ask, query.generation.timeout)
        return handle

    def warm_up(self) -> None:
        """Compile kernels and capture CUDA graphs in all replicas, also in those that are started later.

        Raises:
            EngineError: a replica has died, or the pool is closed.
        """
        with self._changed:
            self._check()
            self._warm = True
            calls = [link.call("warm up") for link in self._links.values()]
        for called in calls:
            called.result()

    def close(self) -> None:
        """Cancel all queries, and end the processes; then the pool takes no query any more."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            self._beats.end()
            held, self._held = self._held, deque()
            links = list(self._links.values())
        for link in links:
            link.over(None)
        self._replicas.close()
        for ask in held:
            ask.handle.end(cancelled())
        for link in links:
            link.join()

    def disown(self) -> None:
        """In a forked process, end the handles' copies: its threads do not exist there."""
        error = self._foreign()
        self._changed = threading.Condition(threading.RLock())
        for ask in [*self._held, *(ask for link in self._links.values() for ask in link.asks)]:
            ask.handle.disown(error)

    # --- queries -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise self._foreign()
        if self._closed:
            raise EngineError("the replicas have been closed, and answer nothing any more; make another MossVL")
        if len(self._given_up) == len(self._replicas.all):
            raise self._dead()

    def _dead(self) -> EngineError:
        reason = next(iter(self._given_up.values()))
        return EngineError(f"all replicas have been given up, the first one as {reason}")

    def _foreign(self) -> EngineError:
        return EngineError("these replicas answer only the process that started them, not one that is forked from it")

    def _give(self, ask: Ask) -> bool:
        """Give a query to a replica, unless none is ready."""
        while (chosen := self._chosen(ask)) is not None:
            if self._links[chosen].ask(ask):
                return True
            self._router.end(chosen, ask.tokens)  # It has just died.
            self._router.close(chosen)
        return False

    def _chosen(self, ask: Ask) -> int | None:
        """Choose a query's replica, and count the query as its own.

        A pool sees all queries: what it has not had yet goes where there is least to do, instead of where a hash says.
        """
        home, serving = self._homes.pop(ask.key, None), self._router.serving
        most = max(AMPLE, SKEW * self._router.requests / max(1, len(serving)))
        if home in serving and self._router.load(home).requests < min(self._router.full, most):
            chosen = self._router.begin(ask.tokens, avoid=serving - {home})
        else:
            chosen = self._router.begin(ask.tokens)
        kept = home if home in serving else chosen
        if kept is not None:
            self._homes[ask.key] = kept
            if len(self._homes) > REMEMBERED:
                del self._homes[next(iter(self._homes))]
        return chosen

    def _hold(self, ask: Ask, timeout: float | None) -> None:
        """Keep a query until a replica is ready, but not beyond its time limit."""
        self._held.append(ask)
        if timeout is not None:
            error = GenerationTimeout(f"the query took longer than its timeout of {timeout:g} seconds")
            timer = threading.Timer(timeout, self._drop, (ask, error))
            timer.daemon = True
            timer.start()

    def _drop(self, ask: Ask, error: MossVLError) -> None:
        """End a query that is held."""
        with self._changed:
            if ask not in self._held:
                return
            self._held.remove(ask)
        ask.handle.end(error)

    def _cancel(self, ask: Ask) -> None:
        self._drop(ask, cancelled())
        if ask.link is not None:
            ask.link.cancel(ask)

    def _ended(self, replica: int, ask: Ask) -> None:
        self._router.end(replica, ask.tokens)

    # --- replicas (in the thread that watches them) --------------------------------------------------------------

    def ready(self, replica: Replica, pipe: Connection) -> None:
        """Have a replica answer queries, once it is warm."""
        number = replica.number
        with self._changed:
            if self._closed:
                pipe.close()
                return
            link = Link(number, pipe, partial(self._ended, number), partial(self._replicas.kill, number))
            self._links[number] = link
            self._changed.notify_all()
            if self._warm:
                link.call("warm up").add_done_callback(lambda _: self._open(link))
            else:
                self._open(link)

    def _open(self, link: Link) -> None:
        """Give a replica what is held, and further queries."""
        with self._changed:
            if self._links.get(link.replica) is not link:  # It has ended.
                return
            link.warm = True
            if link.silent:
                return
            self._router.open(link.replica)
            while self._held and self._give(self._held[0]):
                self._held.popleft()

    def _linked(self) -> list[Link]:
        with self._changed:
            return list(self._links.values())

    def _beating(self, link: Link) -> None:
        """Give a replica that has fallen silent nothing, until it is heard again."""
        with self._changed:
            if link.silent and self._links.get(link.replica) is link:
                self._router.close(link.replica)
            elif not link.silent and link.warm:
                self._open(link)

    def ended(self, replica: Replica, reason: str) -> None:
        """Fail a replica's queries; another process is started, unless the pool is being closed."""
        with self._changed:
            self._router.close(replica.number)
            link = self._links.pop(replica.number, None)
            closed = self._closed
        if link is not None:
            link.over(None if closed else reason)
        if not closed:
            logger.warning("%s; it is started again", reason)

    def given_up(self, replica: Replica, error: MossVLError) -> None:
        """Go on with fewer replicas; without any, fail what is held."""
        with self._changed:
            self._given_up[replica.number] = error
            last = len(self._given_up) == len(self._replicas.all)
            held, self._held = (self._held, deque()) if last else (deque[Ask](), self._held)
            self._changed.notify_all()
        for ask in held:
            ask.handle.end(self._dead())
        if self._begun:  # If not, it is raised.
            logger.warning("%s is given up: %s", replica, error)

    def _wait_until_ready(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._links) == size or self._given_up)
            if self._given_up:
                raise next(iter(self._given_up.values()))
            self._begun = True


_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def _folder() -> str | None:
    """The working folder, from which relative paths start; None if it was deleted."""
    with suppress(OSError):
        return os.getcwd()
    return None


def _disown() -> None:
    for pool in list(_pools):
        pool.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)
