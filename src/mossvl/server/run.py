"""Runs a server in this process, from binding its address to shutdown."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from mossvl.llm import MossVL
from mossvl.malloc import limit_arenas
from mossvl.server.app import create_app
from mossvl.server.background import STARTING
from mossvl.server.config import ServerConfig
from mossvl.server.http import TimelyHTTP
from mossvl.server.listening import HEAD_SECONDS, LAST_SECONDS, bound
from mossvl.server.logs import set_up_log
from mossvl.server.service import Place, Service
from mossvl.server.websocket import BoundedSocket

logger = logging.getLogger("mossvl.server")

ARENAS = 2
"""glibc keeps the ends of all arenas but the main one; with that one alone, the engine's steps would release and claim
the same pages again and again."""
FRAME_ALLOWANCE = 1 << 20
"""Bytes of a message beyond the largest frame, so that the refusal of one that is too large says why."""
LARGEST_HEADER = 64 << 10
"""Most bytes of all headers of a request."""


class Server(uvicorn.Server):
    """Marks the service as stopping before uvicorn shuts down, so that new requests are refused."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping = True
        for end in self._service.endings:  # uvicorn closes WebSockets without a word.
            await end()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        # No logging in a signal handler: the signal may interrupt the log handler itself.
        self._service.stopping = True
        super().handle_exit(sig, frame)


def run(
    config: ServerConfig,
    load: Callable[[], MossVL],
    name: str,
    place: Place | None = None,
    listening: socket.socket | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        load: loads the model, while the server already answers `/health`.
        name: the model's name in responses.
        place: among replicas.
        listening: the socket of a replica, whose clients' addresses the front tells; by default, that of `config`.
        ready: called when requests are accepted.

    Raises:
        Exception: the model could not be loaded.
        OptionError: the address cannot be bound.
    """
    limit_arenas(ARENAS)
    set_up_log(config.log_content, place.name if place is not None else "")
    behind = listening is not None
    listening = listening or bound(config.host, config.port)
    service = Service(config, load, name, place)
    service.when_ready = ready
    server: Server | None = None

    def give_up() -> None:
        if server is not None:
            server.should_exit = True

    server = Server(_settings(service, give_up, trusted="*" if behind else None), service)
    if not behind:
        host, port = listening.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    with listening:
        try:
            server.run([listening])
        finally:
            logger.info("stopped")
    if any(thread.name == STARTING for thread in threading.enumerate()):
        os._exit(0)  # The model is still loading, in a thread that cannot be stopped.
    if service.failed is not None:
        raise service.failed


@contextmanager
def beside(config: ServerConfig, llm: MossVL, name: str) -> Iterator[str]:
    """Serve a loaded model in a thread of this process; yield the URL of the server, which is ready.

    Raises:
        Exception: the model could not answer.
    """
    service = Service(config, lambda: llm, name)
    server = Server(_settings(service, lambda: None), service)
    with bound(config.host, config.port) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), name="mossvl-server")
        thread.start()
        try:
            while not service.is_ready:
                if service.failed is not None:
                    raise service.failed
                time.sleep(0.05)
            yield f"http://{config.host}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _settings(service: Service, give_up: Callable[[], None], trusted: str | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(service, give_up),
        forwarded_allow_ips=trusted,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(HEAD_SECONDS),
        http=TimelyHTTP,
        ws=BoundedSocket,
        ws_max_size=service.config.live_frame_bytes + FRAME_ALLOWANCE,
        ws_per_message_deflate=False,  # Images do not become smaller, and what is small may become huge.
        timeout_graceful_shutdown=int(service.config.shutdown_timeout) + LAST_SECONDS,
        h11_max_incomplete_event_size=LARGEST_HEADER,
    )
