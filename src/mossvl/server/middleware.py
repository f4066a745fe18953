"""Around every request: its number, its key, the size of its body, and one line in the log."""

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mossvl.server.config import ServerConfig
from mossvl.server.errors import RETRY_SECONDS, RequestError, error_body, refusal
from mossvl.server.metrics import Metrics

logger = logging.getLogger("mossvl.server")

NUMBER = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What a request number of a client's own may be."""
PROTECTED = ("/v1/", "/metrics")
UPLOADS = "/v1/files"
BODY_ALLOWANCE = 1 << 20
"""Bytes of an upload beside the file."""


class Room:
    """Bytes that the bodies of all running requests may have together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, count: int) -> None:
        """Raise a RequestError if there is not so much room left."""
        if self.used + count > self.limit:
            raise RequestError(
                503, "overloaded", "too many large requests at once; try again later", retry_after=RETRY_SECONDS
            )
        self.used += count


class Gate:
    """Middleware: lets in who has a key, and bodies of a bearable size that come in a bearable time."""

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._keys = [key.encode() for key in config.api_keys]
        self._memory, self._disk = Room(config.body_space), Room(config.upload_space)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if NUMBER.fullmatch(given) else secrets.token_hex(12)
        scope.setdefault("state", {})["number"] = number
        begun, status = time.monotonic(), 499
        uploading = scope["path"] == UPLOADS
        room = self._disk if uploading else self._memory
        most = self._config.max_download + BODY_ALLOWANCE if uploading else self._config.max_body
        body = Body(receive, room, most, self._config.stall_timeout)

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            self._check(scope["path"], headers)
            body.expect(int(headers.get("content-length") or 0))
            await self._app(scope, body.receive, numbered)
        except (RequestError, ValueError) as error:
            refused = refusal(error) if isinstance(error, RequestError) else RequestError(400, "invalid", str(error))
            self._metrics.errors.labels(refused.code).inc()
            await refuse(refused, numbered)
        finally:
            body.close()
            path = scope["route"].path if "route" in scope else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            took = 1e3 * (time.monotonic() - begun)
            logger.info("%s %s %s %d %.0f ms", number, scope["method"], path, status, took)

    def _check(self, path: str, headers: Headers) -> None:
        """Raise a RequestError if a key is needed and not given."""
        if not self._keys or not path.startswith(PROTECTED):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = [hmac.compare_digest(given.encode(), key) for key in self._keys]  # all, whichever it is
        if scheme.lower() != "bearer" or not any(known):
            raise RequestError(401, "invalid_api_key", "no valid API key; send Authorization: Bearer KEY")


class Body:
    """A request's body, within limits.

    Args:
        room: where it is kept until the request has ended.
        most: bytes that it may have.
        stall: seconds within which each piece must come.
    """

    def __init__(self, receive: Receive, room: Room, most: int, stall: float) -> None:
        self._receive, self._room, self._most, self._stall = receive, room, most, stall
        self._taken, self._ended = 0, False

    def expect(self, length: int) -> None:
        """Raise a RequestError if a body that says how long it is will be too long."""
        if length > self._most:
            raise RequestError(
                413, "too_large", f"the request has more than {self._most} bytes (--max-body, --max-download)"
            )

    async def receive(self) -> Message:
        """The next piece; after the last one, whatever comes, whenever it comes."""
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._stall):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(408, "too_slow", f"nothing of the request came for {self._stall:g} seconds") from None
        count = len(message.get("body", b""))
        self.expect(self._taken + count)
        self._room.take(count)
        self._taken += count
        self._ended = not message.get("more_body", False)
        return message

    def close(self) -> None:
        """The request has ended."""
        self._room.used -= self._taken


async def refuse(error: RequestError, send: Callable[[Message], Any]) -> None:
    """Answer with an error."""
    body = json.dumps(error_body(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", str(error.retry_after).encode())] if error.retry_after is not None else []
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
