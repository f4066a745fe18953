"""Connections whose requests' heads do not come in time: a server closes them, and a front does; others it keeps."""

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import uvicorn
from raw_sockets import TEXT, frame, handshake

from mossvl.server import http
from mossvl.server.front import client
from mossvl.server.front.client import ClientConnection
from mossvl.server.http import TimelyHTTP
from mossvl.server.websocket import BoundedSocket

SECONDS = 0.5
"""In place of `HEAD_SECONDS`."""
REQUEST = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


async def slow(scope, receive, send):
    """Answers later than the next head would be due."""
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await asyncio.sleep(3 * SECONDS)
        await send({"type": "websocket.send", "text": (await receive())["text"]})
        return
    await asyncio.sleep(3 * SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"late"})


@asynccontextmanager
async def server():
    config = uvicorn.Config(slow, http=TimelyHTTP, ws=BoundedSocket, log_config=None, lifespan="off")
    serving = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.ensure_future(serving.serve([listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            serving.should_exit = True
            await running


@asynccontextmanager
async def front():
    host = SimpleNamespace(clients=set(), config=SimpleNamespace(stall_timeout=60.0))
    listening = await asyncio.get_running_loop().create_server(lambda: ClientConnection(host), "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(http, "HEAD_SECONDS", SECONDS)
    monkeypatch.setattr(client, "HEAD_SECONDS", SECONDS)


def connected(serving, visit):
    """Visit a server; reading from it must end."""

    async def run():
        async with asyncio.timeout(60), serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await visit(reader, writer)
            finally:
                writer.close()

    asyncio.run(run())


async def crumbs(reader, writer):
    """Send a head byte by byte, without an end, until the connection is closed."""
    ended = asyncio.ensure_future(reader.read())
    writer.write(b"GET / HTTP/1.1\r\nhost: ")
    while not ended.done():
        writer.write(b"a")
        await asyncio.sleep(SECONDS / 20)
    with suppress(ConnectionError):  # A crumb came after the end.
        assert await ended == b""


@pytest.mark.parametrize("serving", [server, front])
def test_a_client_that_sends_nothing_loses_its_connection(serving):
    async def visit(reader, writer):
        assert await reader.read() == b""

    connected(serving, visit)


@pytest.mark.parametrize("serving", [server, front])
def test_a_client_that_sends_its_head_in_crumbs_loses_its_connection(serving):
    connected(serving, crumbs)


def test_the_next_head_must_come_in_time_too():
    async def visit(reader, writer):
        writer.write(REQUEST)
        await reader.readuntil(b"late")
        await crumbs(reader, writer)

    connected(server, visit)


def test_answers_and_requests_in_a_row_may_take_their_time():
    async def visit(reader, writer):
        writer.write(2 * REQUEST)
        for _ in range(2):
            assert b"200 OK" in await reader.readuntil(b"late")

    connected(server, visit)


def test_a_websocket_has_had_its_head():
    async def visit(reader, writer):
        writer.write(handshake("/", 80))
        assert b"101 " in await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2 * SECONDS)
        writer.write(frame(TEXT, b"hello"))
        assert b"hello" in await reader.readuntil(b"hello")

    connected(server, visit)
