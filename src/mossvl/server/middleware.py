"""Around every request: its id, its key, the size of its body, and one line in the log."""

import asyncio
import hmac
import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mossvl.server.config import ServerConfig, is_local, site_of
from mossvl.server.errors import GONE, RequestError, error_response, refusal, unavailable
from mossvl.server.logs import told
from mossvl.server.metrics import Metrics

logger = logging.getLogger("mossvl.server")

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What a request id of a client's own may be."""
UPLOADS = "/v1/files"
KNOWN = (UPLOADS, "/v1/chat/completions", "/v1/media/frames", "/v1/models", "/metrics")
"""Paths that are counted by their names even if a request does not get so far."""
PROBES = ("/health", "/ready", "/metrics")
"""Asked again and again; the log tells of them only when they fail."""
PROTECTED = ("/v1/", "/metrics")
BODY_ALLOWANCE = 1 << 20
"""Bytes of an upload beside the file."""


class Room:
    """Bytes that the bodies of all running requests may have together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, count: int) -> None:
        """Raise a RequestError if there is not so much room left."""
        if self.used + count > self.limit:
            raise unavailable("overloaded", "too many large requests at once; try again later")
        self.used += count


class Gate:
    """Middleware: lets in who has a key, and bodies of a bearable size that come in a bearable time."""

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._keys = [key.encode() for key in config.api_keys]
        self._memory, self._disk = Room(config.body_space), Room(config.upload_space + BODY_ALLOWANCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status = time.monotonic(), GONE
        uploading = scope["path"] == UPLOADS
        room = self._disk if uploading else self._memory
        most = self._config.max_download + BODY_ALLOWANCE if uploading else self._config.max_body
        flag = "--max-download" if uploading else "--max-body"
        body = Body(receive, room, most, self._config.stall_timeout, flag)

        begun_answer = False

        async def with_id(message: Message) -> None:
            nonlocal status, begun_answer
            if message["type"] == "http.response.start":
                begun_answer = True
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self._check(scope["path"], headers)
            length = headers.get("content-length", "0")
            body.expect(int(length) if length.isdecimal() else 0)
            await self._app(scope, body.receive, with_id)
        except Exception as error:
            refused = refusal(error)
            if not isinstance(error, RequestError):
                logger.exception("%s has failed", request_id)
            self._metrics.errors.labels(refused.code).inc()
            if not begun_answer:
                await error_response(refused)(scope, receive, with_id)
        finally:
            body.close()
            path = scope["path"] if scope["path"] in KNOWN else "other"
            route = scope["route"].path if "route" in scope else path
            self._metrics.requests.labels(route, str(status)).inc()
            took = 1e3 * (time.monotonic() - begun)
            level = logging.DEBUG if route in PROBES and status == 200 else logging.INFO
            client = (scope.get("client") or ("-",))[0]  # A proxy's header may say who that is.
            asked = [told(text) for text in (client, scope["method"], scope["path"])]
            logger.log(level, "%s %s %d %.0f ms", request_id, " ".join(asked), status, took)

    def _check(self, path: str, headers: Headers) -> None:
        """Raise a RequestError if a key is needed and not given; or, where none is, if another site's page asks."""
        if not self._keys:
            self._check_site(headers)
            return
        if not path.startswith(PROTECTED):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = [hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]  # all, whichever it is
        if scheme.lower() != "bearer" or not any(known):
            raise RequestError(401, "invalid_api_key", "no valid API key; send Authorization: Bearer KEY")

    def _check_site(self, headers: Headers) -> None:
        """A browser on this machine must not be used by whatever page it shows, under whatever name of this machine."""
        host = headers.get("host", "").lower()
        origin = headers.get("origin", "")
        allowed = {"*", origin} & set(self._config.origins)
        if origin and not allowed and site_of(origin).partition("://")[2] != host:
            raise RequestError(
                403, "foreign_site", f"a page of {origin!r:.100} may not ask here; see --allow-origin and --api-key"
            )
        name = urlsplit(site_of(f"http://{host}")).hostname
        if self._config.local and host and not is_local(name or ""):
            raise RequestError(403, "foreign_site", f"{host!r:.100} is no name of this machine; set an API key")


class Body:
    """A request's body, within limits.

    Args:
        room: where it is kept until the request has ended.
        most: bytes that it may have.
        stall: seconds within which each piece must come.
        flag: what sets `most`.
    """

    def __init__(self, receive: Receive, room: Room, most: int, stall: float, flag: str = "--max-body") -> None:
        self._receive, self._room, self._most, self._stall, self._flag = receive, room, most, stall, flag
        self._taken, self._ended = 0, False

    def expect(self, length: int) -> None:
        """Raise a RequestError if a body that says how long it is will be too long."""
        if length > self._most:
            raise RequestError(
                413, "too_large", f"the request is larger than this server allows, {self._most} bytes ({self._flag})"
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
