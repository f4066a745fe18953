"""One request at a replica: the connection to it, over which bytes pass in both directions at the slower one's pace."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from mossvl.server.front.bodies import BrokenResponse, ResponseBody, response_head
from mossvl.server.front.requests import HOP_BY_HOP, Head

CLOSE = (b"connection", b"close")
FIRST_BYTES = 1 << 16
"""Bytes of the beginning of a stream that are kept, for the events that end it if the replica dies."""


class Client(Protocol):
    """The client's side of a relay."""

    def connected(self) -> None:
        """The replica takes the request."""

    def begin(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Write a response's head."""

    def write(self, data: bytes) -> None:
        """Write bytes of its body, or of a socket."""

    def ready_for_more(self) -> None:
        """The replica takes more bytes of the request's body."""

    def hold(self) -> None:
        """The replica takes no bytes of the request's body for now."""


class Relay(asyncio.Protocol):
    """The connection to a replica for one request.

    Args:
        head: the request's.
        headers: as they are passed on.
        over: called once, at the end; with True if the replica's response is whole.

    Attributes:
        begun: the response's head has been passed on.
        stream: the response is a stream of events.
        opened: the response has opened a socket, over which bytes pass in both directions.
        first, last: the bytes with which a stream began, and the newest ones.
    """

    def __init__(
        self, head: Head, headers: list[tuple[bytes, bytes]], client: Client, over: Callable[[bool], None]
    ) -> None:
        self._head, self._client, self._over = head, client, over
        closing = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")] if head.is_socket else [CLOSE]
        # h11 has read these headers: no value can end a line.
        lines = [b"%b %b HTTP/1.1\r\n" % (head.method.encode(), head.target)]
        self._asking = b"".join([*lines, *(b"%b: %b\r\n" % one for one in (*headers, *closing)), b"\r\n"])
        self.transport: asyncio.Transport | None = None
        self.body: ResponseBody | None = None
        self._buffer = b""
        self.begun = self.stream = self.opened = False
        self.first = self.last = b""

    # --- to the replica ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._asking)
        self._client.connected()

    def send(self, data: bytes) -> None:
        """Pass on bytes of the request's body, framed as its headers say, or of a socket."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        self._client.hold()

    def resume_writing(self) -> None:
        self._client.ready_for_more()

    def abort(self) -> None:
        """Leave the replica, which then cancels the request."""
        if self.transport is not None:
            self.transport.abort()

    # --- from the replica ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            if self.opened:
                self._client.write(data)
            elif self.body is not None:
                self._pass_on(self.body, data)
            else:
                self._read_head(data)
        except BrokenResponse:
            self.abort()

    def _read_head(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        (status, reason, headers), rest = response_head(self._buffer[: end - 4]), self._buffer[end:]
        self._buffer = b""
        if status == 101:
            self.opened = self.begun = True
            self._client.begin(101, reason, headers)
            if rest:
                self._client.write(rest)
            return
        if status < 200:
            self._read_head(rest)
            return
        told = {name.lower(): value for name, value in headers}
        bare = self._head.method == "HEAD" or status in (204, 304)
        self.body = ResponseBody(told, bare, unchunked=self._head.version == b"1.0")
        self.stream = told.get(b"content-type", b"").startswith(b"text/event-stream")
        kept = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
        if self.body.chunked:
            kept.append((b"transfer-encoding", b"chunked"))
        self.begun = True
        self._client.begin(status, reason, kept)
        self._pass_on(self.body, rest)

    def _pass_on(self, body: ResponseBody, data: bytes) -> None:
        if passed := body.pass_on(data):
            if self.stream:
                if len(self.first) < FIRST_BYTES:
                    self.first += passed
                self.last = passed
            self._client.write(passed)
        if body.over:
            self._end(True)

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(False)

    def _end(self, whole: bool) -> None:
        over, self._over = self._over, _nothing
        if self.transport is not None:
            self.transport.close()
        over(whole)


def _nothing(_: bool) -> None:
    pass
