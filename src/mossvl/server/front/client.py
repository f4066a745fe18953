"""A client's connection to the front: its requests, one after the other, and what it is sent."""

import asyncio
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Protocol

import h11
from starlette.responses import Response

from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, error_response, refusal
from mossvl.server.front.failing import died, is_whole, last_events
from mossvl.server.front.relay import Relay
from mossvl.server.front.requests import Head, wish_of
from mossvl.server.front.sockets import Transcript
from mossvl.server.front.turn import Turn
from mossvl.server.listening import HEAD_SECONDS
from mossvl.server.middleware import Room

LARGEST_HEAD = 64 << 10
LINGER_SECONDS = 2.0
"""Seconds in which the rest of a refused body is read, so that its client gets to read the refusal."""
MOST_AHEAD = 1 << 16
"""Bytes of further requests that are read before they are due."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(Protocol):
    """What a connection needs of the front."""

    config: ServerConfig
    room: Room
    clients: "set[ClientConnection]"
    stopping: bool

    def admit(self, head: Head) -> Turn: ...

    async def own(self, head: Head, turn: Turn) -> Response | None: ...

    async def connect(self, turn: Turn, relay: Relay) -> None: ...

    def refused(self, error: RequestError, head: Head | None, turn: Turn | None) -> None: ...


class ClientConnection(asyncio.Protocol):
    """One connection. What it reads and writes is bounded: who is slower holds up who is faster."""

    def __init__(self, front: Host) -> None:
        self._front, self._loop = front, asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = self._lingering = False
        self._ahead = b""
        self._fresh()

    def _fresh(self) -> None:
        """Be ready for the next request."""
        self._http = h11.Connection(h11.SERVER, LARGEST_HEAD)
        self._head: Head | None = None
        self._whole = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._heard = time.monotonic()
        self._turn: Turn | None = None
        self._relay: Relay | None = None
        self._transcript: Transcript | None = None
        self._carrying: asyncio.Task[None] | None = None

    # --- the connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._front.clients.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.clients.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        if self._carrying is not None:
            self._carrying.cancel()
        if self._relay is not None:
            self._relay.abort()

    def pause_writing(self) -> None:
        self._paused = True
        if self._relay is not None and self._relay.transport is not None:
            self._relay.transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._relay is not None and self._relay.transport is not None:
            self._relay.transport.resume_reading()

    def hold(self) -> None:
        """Read no more for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def ready_for_more(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._head is None

    def close(self) -> None:
        """Close the connection once all is written."""
        if self._transport is not None:
            self._transport.close()

    def _watch(self) -> None:
        """End the connection when a request's head or body does not come in time."""
        patience = HEAD_SECONDS if self._head is None else self._front.config.stall_timeout
        waited = time.monotonic() - self._heard
        if not self._whole and waited >= patience:
            if self._head is None:
                self.close()
                return
            self._refuse(RequestError(408, "too_slow", f"no data of the body came for {patience:g} seconds"))
            waited = 0.0
        self._timer = self._loop.call_later(max(0.05, patience - (0.0 if self._whole else waited)), self._watch)

    # --- requests ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._head is not None:  # However slowly a head comes, it has `HEAD_SECONDS`.
            self._heard = time.monotonic()
        if self._lingering:
            return
        if self._relay is not None and self._relay.opened:
            if self._transcript is not None:
                self._transcript.from_client(data)
            self._relay.send(data)
            return
        if self._whole:
            self._ahead += data
            if len(self._ahead) > MOST_AHEAD:
                self.hold()
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Read a request, or more of its body."""
        try:
            if data:
                self._http.receive_data(data)
            while not (self._whole or self._lingering):
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._begin(event)
                elif isinstance(event, h11.Data):
                    self._piece(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._whole = True
                    self._ahead = self._http.trailing_data[0]
                    self._end()
                else:
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(RequestError(error.error_status_hint, "invalid_request", f"this is no HTTP request: {error}"))
        except RequestError as error:
            self._refuse(error)

    def _begin(self, request: h11.Request) -> None:
        head = Head(request.method.decode(), request.target, request.http_version, list(request.headers))
        self._head, self._heard = head, time.monotonic()
        self._turn = self._front.admit(head)
        length = head.get(b"content-length")
        if length and head.get(b"transfer-encoding"):  # Two servers might take another one of the two (RFC 9112, 6.1).
            raise RequestError(400, "invalid_request", "a body has a Content-Length or a Transfer-Encoding, not both")
        self._turn.expect(int(length) if length.isdigit() else 0)
        if self._http.they_are_waiting_for_100_continue:
            self.write(CONTINUE)
        if head.uploads:  # Its body is passed on as it comes.
            self._turn.framed = bool(length)
            self._carry()

    def _piece(self, data: bytes) -> None:
        assert self._turn is not None and self._head is not None
        self._size += len(data)
        self._turn.expect(self._size)
        if not self._head.uploads:
            self._front.room.take(len(data))
            self._turn.taken += len(data)
            self._pieces.append(data)
            return
        framed = data if self._turn.framed else b"%x\r\n%b\r\n" % (len(data), data)
        self._upload(framed)

    def _upload(self, data: bytes) -> None:
        if self._relay is not None and self._relay.transport is not None:
            self._relay.send(data)
        else:
            self._pieces.append(data)
            self.hold()  # Until a replica is there.

    def _end(self) -> None:
        """The request has come whole."""
        assert self._head is not None and self._turn is not None
        if self._head.uploads:
            if not self._turn.framed:
                self._upload(b"0\r\n\r\n")
            return
        self._carry()

    def _carry(self) -> None:
        self._carrying = self._loop.create_task(self._carried())

    async def _carried(self) -> None:
        """Answer the request, by the front itself or by a replica."""
        head, turn = self._head, self._turn
        assert head is not None and turn is not None
        try:
            if (own := await self._front.own(head, turn)) is not None:
                self._respond(own)
                return
            body = b"".join(self._pieces)
            if head.answers:
                turn.wish = wish_of(head.path, body)
            peer = self._transport.get_extra_info("peername") if self._transport is not None else None
            headers = head.passed_on(peer[0] if peer else "-")
            headers = [(name, value) for name, value in headers if name != b"x-request-id"]
            headers.append((b"x-request-id", turn.request_id.encode()))
            if not head.uploads:
                headers = [(name, value) for name, value in headers if name != b"content-length"]
                if body or head.method in ("POST", "PUT", "PATCH"):
                    headers.append((b"content-length", str(len(body)).encode()))
            elif not turn.framed:
                headers.append((b"transfer-encoding", b"chunked"))
            self._transcript = Transcript(head.path) if head.is_socket else None
            self._relay = Relay(head, headers, self, self._over)
            await self._front.connect(turn, self._relay)
        except RequestError as error:
            self._relay = None
            self._refuse(error)

    def connected(self) -> None:
        """A replica takes the request: send what has come of its body."""
        assert self._relay is not None and self._relay.transport is not None
        if self._paused:
            self._relay.transport.pause_reading()
        self._relay.send(b"".join(self._pieces))
        self._pieces = []
        self.ready_for_more()

    # --- answers -------------------------------------------------------------------------------------------------

    def begin(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Write the head of a replica's response."""
        if status != 101 and not self._stays_open:
            headers = [*headers, (b"connection", b"close")]
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join([*lines, b"\r\n"]))
        if self._turn is not None:
            self._turn.answered(status)
        if self._relay is not None and self._relay.opened and self._ahead:
            ahead, self._ahead = self._ahead, b""
            self.data_received(ahead)

    def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transcript is not None and self._relay is not None and self._relay.opened:
            if data := self._transcript.from_replica(data):
                self._transport.write(data)
            return
        self._transport.write(data)

    @property
    def _stays_open(self) -> bool:
        """Whether another request may follow on this connection."""
        head = self._head
        if head is None or not self._whole or head.version != b"1.1" or self._front.stopping:
            return False
        return b"close" not in head.get(b"connection").lower()

    def _over(self, whole: bool) -> None:
        """The replica's response has ended, whole or not."""
        relay, head = self._relay, self._head
        if relay is None or head is None or self._transport is None:
            return
        if not whole:
            self._failed(relay, head)
            return
        self._done(self._stays_open)

    def _failed(self, relay: Relay, head: Head) -> None:
        """The replica has left the request unfinished."""
        assert self._transport is not None
        if not relay.begun:
            self._refuse(died())
        elif relay.opened:
            assert self._transcript is not None
            if not self._transcript.closed and not self._transport.is_closing():
                self._transport.write(self._transcript.last_messages(died()))
            self._done(False)
        elif relay.stream and not self._paused and relay.body is not None:
            lost = b"" if is_whole(relay.last) else last_events(head.path, relay.first, relay.last)
            self.write(relay.body.last(lost))
            self._done(self._stays_open and relay.body.chunked)
        else:  # The client learns from the missing bytes that the answer is not whole.
            self._release()
            self._transport.abort()

    def _respond(self, response: Response) -> None:
        """Write a response of the front itself."""
        stays = self._stays_open and response.headers.get("connection") != "close"
        headers = [*response.raw_headers]
        if self._turn is not None:
            headers.append((b"x-request-id", self._turn.request_id.encode()))
        if not stays and response.headers.get("connection") != "close":
            headers.append((b"connection", b"close"))
        lines = [b"HTTP/1.1 %d %b\r\n" % (response.status_code, reason_of(response.status_code))]
        lines += [b"%b: %b\r\n" % header for header in headers]
        bare = self._head is not None and self._head.method == "HEAD"
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join([*lines, b"\r\n", b"" if bare else bytes(response.body)]))
        if self._turn is not None:
            self._turn.answered(response.status_code)
        self._done(stays)

    def _refuse(self, error: Exception) -> None:
        if self._relay is not None and self._relay.begun and self._transport is not None:
            self._transport.abort()  # An answer has begun.
            return
        refused = refusal(error)
        self._front.refused(refused, self._head, self._turn)
        path = self._head.path if self._head is not None else ""
        self._respond(error_response(refused, path))

    def _done(self, stays_open: bool) -> None:
        """The request is over: read the next one, or close the connection."""
        self._release()
        relay, whole = self._relay, self._whole
        if relay is not None:
            relay.abort()
        if self._transport is None or self._transport.is_closing():
            return
        if stays_open:
            ahead, self._ahead = self._ahead, b""
            self._fresh()
            self.ready_for_more()
            if ahead:
                self._read(ahead)
            return
        self._relay = None
        if whole:
            self.close()
            return
        self._lingering = True
        self.ready_for_more()
        with suppress(OSError, RuntimeError):
            self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self.close)

    def _release(self) -> None:
        """Give back what the request has taken."""
        if self._turn is not None:
            self._turn.end()


def reason_of(status: int) -> bytes:
    """Return the words of a status."""
    with suppress(ValueError):
        return HTTPStatus(status).phrase.encode()
    return b""
