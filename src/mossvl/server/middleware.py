"""Middleware for every request: request id, API key, origin, limits of the body, one line in the log."""

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from mossvl.server.config import ServerConfig, is_local, site_of
from mossvl.server.errors import GONE, RequestError, error_response, is_anthropic, refusal, unavailable
from mossvl.server.logs import told
from mossvl.server.metrics import Metrics

logger = logging.getLogger("mossvl.server")

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""Request ids that are taken from clients."""
UPLOADS = "/v1/files"
KNOWN = (
    UPLOADS,
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/media/frames",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/realtime",
    "/v1/responses",
    "/v1/video/realtime",
    "/v1/video/realtime/capabilities",
    "/metrics",
)
"""Paths that label metrics even where a request is refused before routing."""
PROBES = ("/health", "/ready", "/metrics")
"""Paths that are polled; successful requests are logged at DEBUG."""
PROTECTED = ("/v1/", "/metrics")
SUBPROTOCOL, KEY_SUBPROTOCOL = "mossvl", "mossvl-key."
"""Browsers can send no header with a WebSocket: they bring the key as a subprotocol, in base64 as of URLs."""
BODY_ALLOWANCE = 1 << 20
"""Bytes of an upload's form beside its file."""


class Room:
    """A byte budget that the bodies of all running requests share."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, count: int) -> None:
        """Reserve bytes, or raise a RequestError if too few are left."""
        if self.used + count > self.limit:
            raise unavailable("overloaded", "the bodies of running requests take all space; try again later")
        self.used += count


@dataclass(frozen=True)
class Limit:
    """Most bytes of a request's body, and the flag that sets them."""

    most: int
    flag: str

    @classmethod
    def of(cls, path: str, config: ServerConfig) -> "Limit":
        """Return the limit of a path."""
        if path == UPLOADS:
            return cls(config.max_download + BODY_ALLOWANCE, "--max-download")
        return cls(config.max_body, "--max-body")

    def check(self, length: int) -> None:
        """Raise a RequestError if a body has more bytes."""
        if length > self.most:
            raise RequestError(
                413, "too_large", f"the request is larger than this server allows, {self.most} bytes ({self.flag})"
            )


class Access:
    """Who may ask: by API key or, on a server without keys, by site."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._keys = [key.encode() for key in config.api_keys]

    def check(self, path: str, headers: Headers) -> str:
        """Return what stands for the API key that a request brings; "" where none is needed.

        Raises:
            RequestError: the key is missing or invalid; on a server without keys, the origin or host is a foreign one.
        """
        if not self._keys:
            self._check_site(headers)
            return ""
        if not path.startswith(PROTECTED):
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key") or _offered(headers)  # Anthropic's clients send the header.
        # All keys are compared, so that the time does not depend on which one matches.
        known = [hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]
        if not any(known):
            found = "the API key is none of this server's" if given else "no API key was sent"
            raise RequestError(401, "invalid_api_key", f"{found}; send Authorization: Bearer KEY, or x-api-key: KEY")
        return hashlib.sha256(given.encode("latin-1")).hexdigest()

    def _check_site(self, headers: Headers) -> None:
        """Raise a RequestError on a foreign Origin (cross-site request) or Host (DNS rebinding)."""
        host = headers.get("host", "").lower()
        origin = headers.get("origin", "")
        allowed = {"*", origin} & set(self._config.origins)
        if origin and not allowed and site_of(origin).partition("://")[2] != host:
            raise RequestError(
                403, "foreign_site", f"origin {origin!r:.100} is not allowed; see --allow-origin and --api-key"
            )
        name = urlsplit(site_of(f"http://{host}")).hostname
        if self._config.local and host and not is_local(name or ""):
            raise RequestError(403, "foreign_site", f"host {host!r:.100} does not name this machine; set an API key")


class Gate:
    """ASGI middleware that checks API key and origin, limits body sizes and upload pace, and logs every request."""

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._access = Access(config)
        self._memory, self._disk = Room(config.body_space), Room(config.upload_space + BODY_ALLOWANCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state, request_id, path = _known(scope, headers)
        begun, status = time.monotonic(), GONE
        uploading = path == UPLOADS
        room = self._disk if uploading else self._memory
        limit = Limit.of(path, self._config)
        body = Body(receive, room, limit.most, self._config.stall_timeout, limit.flag)

        begun_answer = False

        async def with_id(message: Message) -> None:
            nonlocal status, begun_answer
            if message["type"] == "http.response.start":
                begun_answer = True
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["x-request-id"] = request_id
                if is_anthropic(path):
                    answered["request-id"] = request_id
            await send(message)

        try:
            state["key"] = self._access.check(path, headers)
            length = headers.get("content-length", "0")
            body.expect(int(length) if length.isdecimal() else 0)
            await self._app(scope, body.receive, with_id)
        except Exception as error:
            refused = refusal(error)
            if not isinstance(error, RequestError):
                logger.exception("request %s has failed", request_id)
            self._metrics.errors.labels(refused.code).inc()
            if not begun_answer:
                await error_response(refused, path)(scope, receive, with_id)
        finally:
            body.close()
            self._log(scope, scope["method"], status, begun)

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a WebSocket as a request is; its messages are limited where they are read."""
        headers = Headers(scope=scope)
        state, request_id, path = _known(scope, headers)
        begun, status = time.monotonic(), HTTPStatus.SWITCHING_PROTOCOLS.value
        try:
            state["key"] = self._access.check(path, headers)
        except RequestError as error:
            status = error.status
            self._metrics.errors.labels(error.code).inc()
            refused = WebSocket(scope, receive, send)
            await refused.send_denial_response(error_response(error, path))
        else:
            logger.info("%s %s opened", request_id, told(path))
            await self._app(scope, receive, send)
        finally:
            self._log(scope, "WEBSOCKET", status, begun)

    def _log(self, scope: Scope, method: str, status: int, begun: float) -> None:
        """Count a request that is over, and write its line."""
        path = scope["state"]["path"]
        route = scope["route"].path if "route" in scope else path if path in KNOWN else "other"
        self._metrics.requests.labels(route, str(status)).inc()
        took = 1e3 * (time.monotonic() - begun)
        level = logging.DEBUG if route in PROBES and status == 200 else logging.INFO
        client = (scope.get("client") or ("-",))[0]  # uvicorn takes the address from a trusted proxy's header.
        asked = [told(text) for text in (client, method, path)]
        logger.log(level, "%s %s %d %.0f ms", scope["state"]["request_id"], " ".join(asked), status, took)


def request_id_of(headers: Headers) -> str:
    """Return the id of a request: its client's, if it is one, or a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)


def _known(scope: Scope, headers: Headers) -> tuple[dict[str, Any], str, str]:
    """Return a request's state; also its id, and the path by which its route is found, which are kept there.

    The path lacks the prefix (ASGI's `root_path`) under which a program or Ray Serve has mounted the application.
    """
    state: dict[str, Any] = scope.setdefault("state", {})
    path, prefix = scope["path"], scope.get("root_path", "")
    inner = path.removeprefix(prefix)
    state["request_id"] = request_id_of(headers)
    state["path"] = inner if not inner or inner.startswith("/") else path  # "/v10" is not "0" under "/v1".
    return state, state["request_id"], state["path"]


def _offered(headers: Headers) -> str:
    """The API key that a browser offers as a subprotocol; "" if it offers none."""
    for one in headers.get("sec-websocket-protocol", "").split(","):
        if (name := one.strip()).startswith(KEY_SUBPROTOCOL):
            coded = name.removeprefix(KEY_SUBPROTOCOL)
            with suppress(ValueError):
                return base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode("latin-1")
    return ""


class Body:
    """A request's body, limited in size and pace.

    Args:
        room: the budget that the body counts against until the request ends.
        most: largest size in bytes.
        stall: seconds within which each chunk must arrive.
        flag: the flag that sets `most`.
    """

    def __init__(self, receive: Receive, room: Room, most: int, stall: float, flag: str = "--max-body") -> None:
        self._receive, self._room, self._stall = receive, room, stall
        self.expect = Limit(most, flag).check
        self._taken, self._ended = 0, False

    async def receive(self) -> Message:
        """Receive the next chunk within `stall` seconds; after the last one, any ASGI message, without a limit."""
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._stall):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(408, "too_slow", f"no data of the body came for {self._stall:g} seconds") from None
        count = len(message.get("body", b""))
        self.expect(self._taken + count)
        self._room.take(count)
        self._taken += count
        self._ended = not message.get("more_body", False)
        return message

    def close(self) -> None:
        """Release the body's bytes."""
        self._room.used -= self._taken
