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
from mossvl.server.errors import RequestError, error_body, refusal
from mossvl.server.metrics import Metrics

logger = logging.getLogger("mossvl.server")

NUMBER = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What a request number of a client's own may be."""
PROTECTED = ("/v1/", "/metrics")
BODY_ALLOWANCE = 1 << 20
"""Bytes of an upload beside the file."""


class Gate:
    """Middleware: lets in who has a key, and bodies of a bearable size that come in a bearable time."""

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._keys = [key.encode() for key in config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if NUMBER.fullmatch(given) else secrets.token_hex(12)
        scope.setdefault("state", {})["number"] = number
        begun, status = time.monotonic(), 499

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            self._check(scope["path"], headers)
            most = self._most(scope["path"])
            if int(headers.get("content-length") or 0) > most:
                raise too_large(most)
            await self._app(scope, bounded(receive, most, self._config.stall_timeout), numbered)
        except (RequestError, ValueError) as error:
            refused = refusal(error) if isinstance(error, RequestError) else RequestError(400, "invalid", str(error))
            self._metrics.errors.labels(refused.code).inc()
            await refuse(refused, numbered)
        finally:
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

    def _most(self, path: str) -> int:
        return self._config.max_download + BODY_ALLOWANCE if path == "/v1/files" else self._config.max_body


def too_large(most: int) -> RequestError:
    return RequestError(413, "too_large", f"the request has more than {most} bytes (--max-body, --max-download)")


def bounded(receive: Receive, most: int, stall: float) -> Receive:
    """`receive`, but a body may have at most so many bytes, and each piece must come within `stall` seconds."""
    taken, ended = 0, False

    async def piece() -> Message:
        nonlocal taken, ended
        if ended:
            return await receive()
        try:
            async with asyncio.timeout(stall):
                message = await receive()
        except TimeoutError:
            raise RequestError(408, "too_slow", f"nothing of the request came for {stall:g} seconds") from None
        taken += len(message.get("body", b""))
        ended = not message.get("more_body", False)
        if taken > most:
            raise too_large(most)
        return message

    return piece


async def refuse(error: RequestError, send: Callable[[Message], Any]) -> None:
    """Answer with an error."""
    body = json.dumps(error_body(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", str(error.retry_after).encode())] if error.retry_after is not None else []
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
