"""The front: who may ask, which replica answers, and how replicas are replaced while others go on."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from mossvl.errors import EngineError, MossVLError
from mossvl.replicas.processes import Replicas
from mossvl.replicas.replica import Replica, State
from mossvl.replicas.routing import Router
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, stopping, unavailable
from mossvl.server.front.checks import Checks, answer
from mossvl.server.front.client import ClientConnection
from mossvl.server.front.metrics import FrontMetrics
from mossvl.server.front.relay import Relay
from mossvl.server.front.requests import Head
from mossvl.server.front.turn import Turn
from mossvl.server.middleware import PROBES, Access, Limit, Room, request_id_of
from mossvl.version import __version__

logger = logging.getLogger("mossvl.server")

SCRAPE_SECONDS = 5.0
SILENT = "silent"
"""What `/health` tells of a replica that is ready, but does not answer."""


class Front:
    """Takes requests and gives each to a replica.

    Args:
        full: requests that a replica runs at a time.
        make: makes the replicas' processes, which this watches.
    """

    def __init__(self, config: ServerConfig, full: int, make: "Callable[[Front], Replicas]") -> None:
        self.config = config
        self.router = Router(full, config.max_queue)
        self.replicas = make(self)
        self.metrics = FrontMetrics()
        self.room = Room(config.body_space)
        self.clients: set[ClientConnection] = set()
        self.stopping = False
        self.failed: MossVLError | None = None
        """Why no replica is left."""
        self._access = Access(config)
        self._open: Counter[int] = Counter()
        """Requests at each replica, without live sessions."""
        self._sockets: Counter[int] = Counter()
        """Live sessions at each replica."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._checks = Checks(self.replicas.all, self)
        self._silent: set[int] = set()
        """Replicas that are ready, but do not answer."""
        self._over = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None
        self._watch()

    # --- requests ------------------------------------------------------------------------------------------------

    def admit(self, head: Head) -> Turn:
        """Return the turn of a request that may come in.

        Raises:
            RequestError: it may not, or the server is being stopped.
        """
        headers = Headers(raw=head.headers)
        turn = Turn(request_id_of(headers), Limit.of(head.path, self.config), head.answers, head.is_socket, self._ended)
        self._access.check(head.path, headers)
        if self.stopping:
            raise stopping()
        return turn

    async def own(self, head: Head, turn: Turn) -> Response | None:
        """Return the answer to a request that is about the whole server; None for all others."""
        if head.method not in ("GET", "HEAD"):
            return None
        if head.path == "/health":
            return self._health()
        if head.path == "/ready":
            if not self.router.serving:
                raise self._unready()
            return JSONResponse({"status": "ready"})
        if head.path == "/metrics":
            return await self._scraped(head)
        return None

    async def connect(self, turn: Turn, relay: Relay) -> None:
        """Choose a replica for a request and connect to it; one that cannot be reached is passed over.

        Raises:
            RequestError: no replica is ready, or all have enough to do.
        """
        begun, tried = time.perf_counter(), set[int]()
        while True:
            replica = self._choose(turn, tried)
            turn.replica = replica
            (self._sockets if turn.socket else self._open)[replica] += 1
            self.metrics.requests.labels(str(replica)).inc()
            about = self.replicas.all[replica].info
            try:
                if about is None:  # It has just died.
                    raise ConnectionRefusedError
                await self._loop.create_unix_connection(lambda: relay, about.socket)
            except OSError:
                self._give_back(turn)
                tried.add(replica)
                continue
            self.metrics.chosen.observe(time.perf_counter() - begun)
            return

    def _choose(self, turn: Turn, tried: set[int]) -> int:
        wish = turn.wish
        if turn.answers:
            chosen = self.router.begin(wish.tokens, wish.key, tried, wish.replica)
        elif turn.socket:
            least = [(self._sockets[one], self.router.load(one).tokens, one) for one in self.router.serving - tried]
            chosen = min(least)[2] if least else None
        else:
            chosen = self.router.least(tried)
        if chosen is not None:
            turn.counted = turn.answers
            return chosen
        if not self.router.serving - tried:
            raise self._unready()
        count = self.router.requests
        raise unavailable("overloaded", f"{count} requests are running or waiting; try again later (--max-queue)")

    def _unready(self) -> RequestError:
        if self.stopping:
            return stopping()
        if any(replica.starts == 1 and replica.state is State.STARTING for replica in self.replicas.all):
            return unavailable("loading", "the model is being loaded; try again soon")
        return unavailable("no_replica", "no replica is ready; try again soon")

    def _give_back(self, turn: Turn) -> None:
        """The turn's replica does not have it any more."""
        replica, turn.replica = turn.replica, None
        if replica is None:
            return
        counts = self._sockets if turn.socket else self._open
        counts[replica] -= 1
        if turn.counted:
            turn.counted = False
            self.router.end(replica, turn.wish.tokens)
        self._changed.set()

    def _ended(self, turn: Turn) -> None:
        self.room.used -= turn.taken
        turn.taken = 0
        if turn.status == 503 and turn.replica is not None:
            self._checks.doubt(turn.replica)
        self._give_back(turn)

    def refused(self, error: RequestError, head: Head | None, turn: Turn | None) -> None:
        """Count and log a request that the front has refused."""
        self.metrics.refused.labels(error.code).inc()
        if error.code == "replica_failed" and turn is not None and turn.replica is not None:
            self.metrics.failed.labels(str(turn.replica)).inc()
        asked = "-" if head is None else f"{head.method:.20} {head.path[:200]!r}"
        level = logging.DEBUG if head is not None and head.path in PROBES else logging.INFO
        numbered = "-" if turn is None else turn.request_id
        logger.log(level, "%s front %s %d %s", numbered, asked, error.status, error.code)

    # --- the server's state --------------------------------------------------------------------------------------

    def _health(self) -> Response:
        states = {str(one.number): SILENT if one.number in self._silent else one.state for one in self.replicas.all}
        if self.failed is not None:
            raise RequestError(503, "engine_failed", str(self.failed))
        sessions = sum(self._sockets.values()) > 0
        loaded = {"model_loaded": True, "session_active": sessions} if self.router.serving else {}
        return JSONResponse({"status": "alive", **loaded, "replicas": states})

    async def _scraped(self, head: Head) -> Response:
        """The metrics of all replicas that answer, and of the front."""
        kept = [(name, value) for name, value in head.headers if name in (b"authorization", b"x-api-key", b"host")]
        numbers = sorted(self.router.serving)
        asked = (answer(self.replicas.all[one], "/metrics", kept, SCRAPE_SECONDS) for one in numbers)
        pages = await asyncio.gather(*asked)
        texts = {number: page[1].decode() for number, page in zip(numbers, pages, strict=True) if page[0] == 200}
        return Response(self.metrics.page(texts), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _watch(self) -> None:
        numbers = range(len(self.replicas.all))
        gauges: dict[str, tuple[str, Callable[[int], float]]] = {
            "replica_ready": ("Whether a replica takes requests.", lambda one: one in self.router.serving),
            "replica_starts": ("Processes of a replica that were started.", lambda one: self.replicas.all[one].starts),
            "requests_open": ("Requests at a replica, without live sessions.", lambda one: self._open[one]),
            "tokens_open": ("Estimated tokens of these.", lambda one: self.router.load(one).tokens),
            "sessions_open": ("Live sessions at a replica.", lambda one: self._sockets[one]),
        }
        for name, (told, value) in gauges.items():
            self.metrics.watch(name, told, {number: partial(value, number) for number in numbers})

    # --- replicas ------------------------------------------------------------------------------------------------

    def ready(self, replica: Replica, pipe: Any) -> None:
        pipe.close()
        about = replica.info
        if about.version != __version__:
            told = f"{replica} is of version {about.version}, and the front of {__version__}; restart the whole server"
            self.replicas.give_up(replica.number, EngineError(told))
            return
        self._soon(self._opened, replica.number, about.process)

    def ended(self, replica: Replica, reason: str) -> None:
        self._soon(self._closed, replica.number, replica.state is State.DOWN and replica.due is not None, reason)

    def given_up(self, replica: Replica, error: MossVLError) -> None:
        self._soon(self._given_up, replica, error)

    def _soon(self, work: Callable[..., None], *given: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *given)

    def _opened(self, number: int, process: int) -> None:
        logger.info("replica %d is ready: process %d", number, process)
        self._silent.discard(number)
        self.router.open(number)
        self._changed.set()

    def silent(self, number: int) -> None:
        """Give a replica that does not answer no requests until it does."""
        if number not in self._silent:
            logger.warning("replica %d does not answer; it gets no requests until it does", number)
            self._silent.add(number)
            self.router.close(number)

    def well(self, number: int) -> None:
        """Give a replica that answers again requests, unless it is being replaced."""
        if number in self._silent:
            logger.warning("replica %d answers again", number)
            self._silent.discard(number)
            if number != self._replaced:
                self.router.open(number)
                self._changed.set()

    def broken(self, number: int, why: str) -> None:
        """Kill a replica; another process is started."""
        if not self.stopping:
            logger.error("replica %d %s; it is killed", number, why)
            self.router.close(number)
            self.replicas.kill(number)

    def _closed(self, number: int, again: bool, reason: str) -> None:
        self._silent.discard(number)
        self.router.close(number)
        if again and not self.stopping and number != self._replaced:
            self.metrics.deaths.labels(str(number)).inc()
            logger.error("%s; it is started again", reason)
        else:
            logger.info("%s", reason)
        self._changed.set()

    def _given_up(self, replica: Replica, error: MossVLError) -> None:
        self._silent.discard(replica.number)
        self.router.close(replica.number)
        self._changed.set()
        logger.error("%s is given up: %s", replica, error)
        # What one cannot do from the beginning, it will not do later.
        if replica.starts == 1 or all(one.state is State.GIVEN_UP for one in self.replicas.all):
            self.failed = error
            self._over.set()

    _replaced: int | None = None
    """The replica that a rolling restart replaces."""

    def roll(self) -> None:
        """Replace all replicas' processes, one after the other, each once its requests have ended."""
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.create_task(self._roll())

    async def _roll(self) -> None:
        logger.info("replicas are restarted, one after the other")
        for replica in self.replicas.all:
            number, before = replica.number, replica.starts
            others = self.router.serving - {number}
            if not others:
                logger.warning("replica %d is the only one that is ready: requests are refused until its next", number)
            self._replaced = number
            self.router.close(number)
            await self._until(partial(self._idle, number), self.config.timeout)
            self.replicas.restart(number)
            await self._until(partial(self._settled, replica, before))
            self._replaced = None
            if replica.state is not State.READY:
                logger.error("the rolling restart ends: replica %d did not become ready", number)
                return
        logger.info("all replicas were restarted")

    def _idle(self, number: int) -> bool:
        return self._open[number] <= 0

    def _settled(self, replica: Replica, before: int) -> bool:
        """Whether a process is ready that was started after so many, or will never be."""
        ready = replica.starts > before and replica.number in self.router.serving
        return ready or replica.state is State.GIVEN_UP

    async def _until(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until a condition holds, or so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    # --- start and end -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End in order: refuse new requests, and let running ones end."""
        self.stopping = True
        self._over.set()

    async def serve(self, listening: Any) -> None:
        """Serve until `stop`, or until no replica is left.

        Raises:
            MossVLError: no replica is left.
        """
        server = await self._loop.create_server(partial(ClientConnection, self), sock=listening)
        self.replicas.start()
        checking = asyncio.create_task(self._checks.run())
        try:
            await self._over.wait()
            self.stopping = True
            server.close()
            for client in list(self.clients):
                if client.idle:
                    client.close()
            # Each replica lets its requests end, and tells its live sessions why they do.
            logger.info("stopping: running requests have %g seconds to end", self.config.shutdown_timeout)
            await asyncio.to_thread(self.replicas.close)
            await self._until(lambda: not self.clients, 2.0)
        finally:
            checking.cancel()
            for client in list(self.clients):
                client.close()
            self.replicas.close()
        if self.failed is not None:
            raise self.failed
