"""Server-sent events, and work that ends when its client disconnects."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mossvl.queries.silence import Silence

T = TypeVar("T")

PIECE = b"data: %b\n\n"
ALIVE = b": still working\n\n"
"""A keep-alive comment: clients skip it, and proxies keep the connection open."""
DONE = PIECE % b"[DONE]"


class ClientGone(Exception):
    """The client has disconnected."""


def event(content: dict[str, Any]) -> bytes:
    """Encode JSON as a server-sent event, under the name of its `type`, if it has one."""
    name = f"event: {content['type']}\n".encode() if "type" in content else b""
    return name + PIECE % json.dumps(content, ensure_ascii=False).encode()


async def gone(receive: Receive) -> None:
    """Wait until the client disconnects; the request's body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Wait for work, and cancel it when the client disconnects.

    Raises:
        ClientGone: the client disconnected.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await working


class EventStream(Response):
    """A response of server-sent events, written as fast as the client reads.

    Args:
        events: encoded events; closed when the client disconnects or reads nothing for `stall` seconds.
        ended: called at the end with the outcome: "sent", "gone" or "stalled".
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], stall: float, ended: Callable[[str], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._stall, self._ended = events, stall, ended
        self._sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stalled = asyncio.Event()
        silence = Silence(self._stall, lambda: stalled.set() if self._sending else None)
        writing = asyncio.ensure_future(self._write(send, silence))
        leaving, stalling = asyncio.ensure_future(gone(receive)), asyncio.ensure_future(stalled.wait())
        how = "gone"
        try:
            await asyncio.wait((writing, leaving, stalling), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                how = "sent"
                writing.result()
            elif stalling.done():
                how = "stalled"
        except OSError:
            pass
        finally:
            silence.end()
            for task in (writing, leaving, stalling):
                task.cancel()
            await asyncio.gather(writing, leaving, stalling, return_exceptions=True)
            self._ended(how)

    async def _write(self, send: Send, silence: Silence) -> None:
        """Send all events; tell `silence` when each sending begins, and `_sending` until it has ended."""
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in events:
                self._sending = True
                silence.begin()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sending = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})
