"""WebSockets of clients that do not read, send crumbs, or are let go: memory is bounded, and ends are read."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn
from raw_sockets import BINARY, CONT, PING, TEXT, frame, handshake

from mossvl.server import websocket
from mossvl.server.websocket import BoundedSocket

MOST = 1 << 20


class Taking(BoundedSocket):
    """A socket that the test can look at."""

    made: "list[Taking]" = []

    def connection_made(self, transport):
        super().connection_made(transport)
        self.outside = transport
        self.made.append(self)


@asynccontextmanager
async def served(app):
    """The port of an application's server; no client of it is left at the end."""
    Taking.made = []
    config = uvicorn.Config(
        app, ws=Taking, ws_max_size=MOST, log_config=None, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.ensure_future(server.serve([listening]))
        try:
            yield listening.getsockname()[1]
            await until(lambda: not server.server_state.connections)
        finally:
            server.should_exit = True
            await serving


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def limited(work):
    """A coroutine that is run to its end, which comes."""

    async def run():
        async with asyncio.timeout(60):
            await work()

    return lambda: asyncio.run(run())


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{len(message.get('bytes') or message.get('text'))}"})


@asynccontextmanager
async def opened(port):
    """A client that reads nothing unless it is asked to."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(plain, ("127.0.0.1", port))
        await loop.sock_sendall(plain, handshake("/", port))
        while b"\r\n\r\n" not in await loop.sock_recv(plain, 4096):
            pass
        yield plain
    finally:
        plain.close()


async def sent(plain, data, enough):
    """Send something again and again, as far as it is taken, until it is enough."""
    while not enough():
        try:
            plain.send(data)
        except BlockingIOError:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)


def test_pings_of_a_client_that_does_not_read_are_not_read_either():
    @limited
    async def run():
        async with served(echo) as port, opened(port) as plain:
            (taking,) = Taking.made
            await sent(plain, frame(PING, bytes(125)) * 100, lambda: not taking.outside.is_reading())
            before = taking.outside.get_write_buffer_size()
            for _ in range(1000):
                try:
                    plain.send(frame(PING, bytes(125)) * 100)
                except BlockingIOError:
                    break
                await asyncio.sleep(0)
            assert taking.outside.get_write_buffer_size() <= before < 1 << 20
            loop = asyncio.get_running_loop()
            while not taking.outside.is_reading():  # Until it reads.
                assert await loop.sock_recv(plain, 1 << 16)

    run()


def test_what_a_client_never_reads_is_dropped_once_its_connection_is_over(monkeypatch):
    monkeypatch.setattr(websocket, "PARTING_SECONDS", 0.01)

    async def leave(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while Taking.made[0].writable.is_set():
            await send({"type": "websocket.send", "text": "a" * 10_000})

    @limited
    async def run():
        async with served(leave) as port, opened(port):
            await until(lambda: Taking.made[0].disconnected)

    run()


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_message_of_many_fragments_takes_the_memory_of_its_bytes(size):
    @limited
    async def run():
        async with served(echo) as port, opened(port) as plain:
            (taking,), loop, count = Taking.made, asyncio.get_running_loop(), 20_000 if size < 3 else 900
            await loop.sock_sendall(plain, frame(TEXT, b"", fin=False) + frame(CONT, bytes(size), fin=False) * count)
            await until(lambda: taking._message is not None and len(taking._message) == size * count)
            assert len(taking.frames) == 1
            await loop.sock_sendall(plain, frame(CONT, b"end"))
            assert (await loop.sock_recv(plain, 100)).endswith(str(size * count + 3).encode())

    run()


def test_fragments_beyond_the_largest_message_end_the_connection():
    @limited
    async def run():
        async with served(echo) as port, opened(port) as plain:
            loop, fragment = asyncio.get_running_loop(), frame(CONT, bytes(1000), fin=False)
            await loop.sock_sendall(plain, frame(TEXT, b"", fin=False) + fragment * (MOST // 1000 + 1))
            assert b"\x03\xf1" in await loop.sock_recv(plain, 1000)  # 1009.

    run()


async def hasty(scope, receive, send):
    """Leaves while messages wait."""
    await receive()
    await send({"type": "websocket.accept"})
    await until(lambda: not Taking.made[0].outside.is_reading())


@pytest.mark.parametrize(("app", "size", "end"), [(echo, 2 * MOST, b"\x03\xf1"), (hasty, 1000, b"")])
def test_a_client_that_is_let_go_may_send_on_and_read_why(app, size, end):
    @limited
    async def run():
        async with served(app) as port, opened(port) as plain:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(plain, frame(BINARY, bytes(size)) * (16 * MOST // size))
            told = b""
            while data := await loop.sock_recv(plain, 1000):
                told += data
            assert end in told and Taking.made[0].queue.qsize() < 300

    run()


@pytest.mark.parametrize("parts", [[b"caf\xe9"], [b"caf", b"\xe9"]])
def test_a_text_that_is_no_utf8_ends_the_connection_and_says_why(parts, caplog):
    @limited
    async def run():
        async with served(echo) as port, opened(port) as plain:
            first, *rest = parts
            sent = frame(TEXT, first, fin=not rest) + b"".join(frame(CONT, one) for one in rest)
            await asyncio.get_running_loop().sock_sendall(plain, sent)
            told = await asyncio.get_running_loop().sock_recv(plain, 1000)
            assert b"\x03\xef" in told and b"UTF-8" in told and b"at byte 3" in told  # 1007.

    run()
    assert not caplog.records
