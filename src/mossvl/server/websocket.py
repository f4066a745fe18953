"""A client's WebSocket as uvicorn speaks it, but nothing of it grows without bound, and the client can read its end."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

PARTING_SECONDS = 5.0
"""Seconds that a client has to read what was sent last, and to close its side."""


class Wire(asyncio.Transport):
    """A connection that reads no faster than its client does, and that its client cannot keep open.

    It is closed on one side first: where a connection is closed with data that nobody has read, its client may lose
    what was sent last, such as why it is closed.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._unwanted = self._unread = self._closing = False
        self._parting: asyncio.TimerHandle | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: Any) -> None:
        if not self._closing:
            self._transport.write(data)

    # --- reading -------------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._unwanted = True
        self._read_or_not()

    def resume_reading(self) -> None:
        self._unwanted = False
        self._read_or_not()

    def heed(self, unread: bool) -> None:
        """Take in whether the client leaves what was sent to it unread."""
        self._unread = unread
        self._read_or_not()

    def _read_or_not(self) -> None:
        if (self._unwanted or self._unread) and not self._closing:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- the end -------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        """Send what waits, and the end; then wait for the client's, for a while."""
        if self._closing:
            return
        self._closing = True
        self._parting = self._loop.call_later(PARTING_SECONDS, self._transport.abort)
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._read_or_not()

    def lost(self) -> None:
        """The connection is closed."""
        self._closing = True
        if self._parting is not None:
            self._parting.cancel()


class BoundedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, over a `Wire`; a message is as large as its bytes, however small its fragments are."""

    _message: bytearray | None = None
    """What has come of a message in fragments, from the second one on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = Wire(cast(asyncio.Transport, transport))
        super().connection_made(self._wire)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wire.heed(unread=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wire.heed(unread=False)

    def data_received(self, data: bytes) -> None:
        if not self._wire.is_closing():  # What comes later is read, and dropped.
            super().data_received(data)

    def eof_received(self) -> None:
        self._wire.close()

    def handle_cont(self, event: Frame) -> None:
        if self._message is None:
            self._message = bytearray(self.frames[0])
        self._message += event.data
        if event.fin:
            self.frames, self._message = [bytes(self._message)], None
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                self.frames[0].decode()
            except UnicodeDecodeError as error:
                self.frames = []
                self.conn.fail(1007, f"text must be UTF-8: {error.reason} at byte {error.start}")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()
