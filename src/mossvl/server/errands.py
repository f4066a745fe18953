"""Work that routes give to decoder processes and wait for."""

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import Request

from mossvl.server.errors import unavailable
from mossvl.server.streams import while_connected
from mossvl.sources.processes import RemoteCall

T = TypeVar("T")

MOST_WAITING = 32
"""Errands that may wait; more are refused."""


class Errands:
    """Calls in decoder processes, `count` at a time."""

    def __init__(self, count: int) -> None:
        self._limiter = CapacityLimiter(count)

    async def run(self, request: Request, begin: Callable[[bytes, str], RemoteCall[T]]) -> T:
        """Return what a call returns; it ends when the client disconnects.

        Args:
            begin: makes the call from the request's body and what stands for its API key.

        Raises:
            ClientGone: the client disconnected.
            MossVLError: the request cannot be used, or too many wait.
        """
        if self._limiter.statistics().tasks_waiting >= MOST_WAITING:
            raise unavailable("overloaded", "many previews and counts of tokens wait; try again later")
        call = await anyio.to_thread.run_sync(begin, await request.body(), request.state.key)
        try:
            running = anyio.to_thread.run_sync(call.run, limiter=self._limiter, abandon_on_cancel=True)
            return await while_connected(request, running)
        finally:
            call.stop()
