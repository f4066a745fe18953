"""Routes of live sessions, over WebSocket, and who may open them."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.websockets import WebSocket

from mossvl.errors import MossVLError
from mossvl.server.config import ServerConfig
from mossvl.server.description import responses
from mossvl.server.errors import refusal, unavailable
from mossvl.server.middleware import SUBPROTOCOL
from mossvl.server.realtime.connection import Connection, Threads
from mossvl.server.realtime.ends import MOST_PREFILL, MOST_PREFILL_TEXT
from mossvl.server.realtime.protocol import Protocol
from mossvl.server.realtime.simple import SimpleProtocol
from mossvl.server.realtime.video import CAPABILITIES, VERSION, VideoProtocol
from mossvl.server.service import Service

STOPPING_SECONDS = 5.0
"""Seconds that clients have to read the end of their sessions when the server stops."""
Make = Callable[[ServerConfig], Protocol]


class LiveConnections:
    """The open connections of a server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open: dict[Connection, asyncio.Task[Any] | None] = {}
        self._threads = Threads(CapacityLimiter(max(2, os.cpu_count() or 1)), CapacityLimiter(1))

    async def serve(self, websocket: WebSocket, make: Make) -> None:
        """Serve a client until it leaves; one more than there may be is refused with the protocol's words.

        The address may name an adapter, as its `model`.
        """
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        config, metrics = self._service.config, self._service.metrics.live
        protocol = make(config)
        connection = Connection(websocket, protocol, config.stall_timeout, self._threads, metrics)
        try:
            llm = self._service.ready.llm
            if len(self._open) >= config.live_sessions:
                raise unavailable("overloaded", f"{len(self._open)} sessions are open; try later (--live-sessions)")
        except MossVLError as error:
            metrics.refused.inc()
            protocol.full(refusal(error))
            await connection.refuse()
            return
        self._open[connection] = asyncio.current_task()
        self._count()
        metrics.begun.labels(type(protocol).__name__.removesuffix("Protocol").lower()).inc()
        try:
            await connection.run(llm, self._service.lora_of(websocket.query_params.get("model")))
        finally:
            del self._open[connection]
            self._count()
            metrics.ended.labels(connection.how).inc()

    def _count(self) -> None:
        self._service.live_sessions = len(self._open)
        self._service.metrics.live.active.set(len(self._open))

    async def stop(self) -> None:
        """End all sessions: each client is told why, and how it can go on elsewhere."""
        tasks = [task for task in self._open.values() if task is not None]
        for connection in list(self._open):
            connection.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=STOPPING_SECONDS)


def add_live(app: FastAPI, service: Service) -> None:
    """Add the routes of both protocols."""
    live = LiveConnections(service)
    service.endings.append(live.stop)

    @app.websocket("/v1/realtime")
    async def simple(websocket: WebSocket) -> None:
        await live.serve(websocket, lambda config: SimpleProtocol(config, time.monotonic))

    @app.websocket("/v1/video/realtime")
    async def video(websocket: WebSocket) -> None:
        name = service.lora_of(websocket.query_params.get("model")) or service.name
        await live.serve(websocket, lambda config: VideoProtocol(config, time.monotonic, name))

    @app.get("/v1/video/realtime/capabilities", responses=responses(401))
    async def capabilities() -> dict[str, Any]:
        """Describe what live sessions over /v1/video/realtime can do, and their limits."""
        config = service.config
        return {
            "protocol_version": VERSION,
            "capabilities": list(CAPABILITIES),
            "prefill_messages": True,
            "max_prefill_messages": MOST_PREFILL,
            "max_prefill_characters": MOST_PREFILL_TEXT,
            "max_frame_bytes": config.live_frame_bytes,
            "max_sessions": config.live_sessions,
            "parked_request_timeout_s": config.live_idle,
        }
