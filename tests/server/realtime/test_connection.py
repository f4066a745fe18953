"""Connections without a network: clients that stop reading, vanish at any moment, or send huge frames."""

import asyncio
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from anyio import CapacityLimiter
from live_streams import picture
from PIL import Image
from prometheus_client import CollectorRegistry
from starlette.websockets import WebSocketDisconnect, WebSocketState

from mossvl.errors import GenerationTimeout
from mossvl.live.sources import Playback
from mossvl.media.limits import MediaLimits
from mossvl.server.config import ServerConfig
from mossvl.server.realtime.connection import Connection, Threads
from mossvl.server.realtime.metrics import LiveMetrics
from mossvl.server.realtime.pace import Pace
from mossvl.server.realtime.simple import SimpleProtocol
from mossvl.server.realtime.video import VideoProtocol

PATIENCE = 30


class Socket:
    """A client that sends these messages as fast as they are taken, then waits, or leaves.

    Attributes:
        reads: how many messages it reads; it stops reading then.
        after: set before it leaves.
    """

    application_state = WebSocketState.CONNECTED

    def __init__(self, *messages, reads=10**6, leaves=False, after=None):
        self.messages, self.reads, self.leaves, self.after = list(messages), reads, leaves, after
        self.told, self.code = [], None

    async def receive(self):
        if self.messages:
            await asyncio.sleep(0)
            sent = self.messages.pop(0)
            return {"type": "websocket.receive", "bytes" if isinstance(sent, bytes) else "text": sent}
        while self.after is not None and not self.after.is_set():
            await asyncio.sleep(0.001)
        if not self.leaves:
            await asyncio.Event().wait()
        return {"type": "websocket.disconnect"}

    async def send_text(self, text):
        if len(self.told) >= self.reads:
            await asyncio.Event().wait()
        if self.leaves and not self.messages:
            raise WebSocketDisconnect
        self.told.append(json.loads(text))

    async def close(self, code, reason=""):
        self.code, self.application_state = code, WebSocketState.DISCONNECTED


def jpeg(number=0, size=None):
    data = BytesIO()
    image = Image.fromarray(picture(number)) if size is None else Image.new("L", size)
    image.save(data, "JPEG")
    return data.getvalue()


def told(kind, **fields):
    return json.dumps({"type": kind, **fields})


def served(llm, socket, make=SimpleProtocol, *, stall=60.0, stop_after=None):
    """Serve a client until it has gone; give the connection."""

    async def serve():
        protocol = make(ServerConfig(), time.monotonic)
        threads = Threads(CapacityLimiter(2), CapacityLimiter(1))
        connection = Connection(socket, protocol, stall, threads, LiveMetrics(CollectorRegistry()))
        serving = asyncio.ensure_future(connection.run(llm))
        while stop_after is not None and stop_after not in [message["type"] for message in socket.told]:
            await asyncio.sleep(0.001)
        if stop_after is not None:
            connection.stop()
        await serving
        return connection

    return asyncio.run(serve())


def nothing_is_left(llm):
    cache = llm.engine.cache
    return not llm.engine.loop.jobs and cache.available == cache.num_pages


def test_a_client_that_stops_reading_is_let_go(llm):
    socket = Socket(told("start"), *[told("ping")] * 9, reads=3)
    assert served(llm, socket, stall=0.05).how == "stalled"
    assert socket.code == 1011 and nothing_is_left(llm)


def test_a_client_that_does_not_read_its_end_either_is_not_waited_for_as_long_again(llm, monkeypatch):
    class Deaf(Socket):
        async def close(self, code, reason=""):
            await asyncio.Event().wait()

    waits, timeout = [], asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: waits.append(seconds) or timeout(seconds))
    monkeypatch.setattr("mossvl.server.realtime.connection.UNREAD_SECONDS", 0.01)
    assert served(llm, Deaf(told("start"), *[told("ping")] * 9, reads=3), stall=0.05).how == "stalled"
    assert waits[-2:] == [0.05, 0.01] and nothing_is_left(llm)


def test_messages_that_come_too_fast_wait(monkeypatch, llm):
    """After a second's worth at once, a message waits until its turn; who waits for a while may send as many again."""
    clock = [100.0]
    pace = Pace(10, lambda: clock[0])
    assert [pace.delay() for _ in range(12)] == [0.0] * 10 + [pytest.approx(0.1), pytest.approx(0.2)]
    clock[0] += 0.2
    assert pace.delay() == pytest.approx(0.1)
    clock[0] += 60
    assert [pace.delay() for _ in range(11)] == [0.0] * 10 + [pytest.approx(0.1)]

    taken = []
    monkeypatch.setattr(Pace, "delay", lambda self: taken.append(1) or 0.001)
    socket = Socket(told("start"), *[told("ping")] * 9, told("stop"))
    assert served(llm, socket).how == "closed"
    assert len(taken) >= 11 and [one["type"] for one in socket.told].count("pong") == 9


def test_clients_that_vanish_at_any_moment_leave_nothing(llm):
    draw = random.Random(0)
    frames = [message for number in range(6) for message in (told("frame", timestamp=number), jpeg(number))]
    whole = [told("start", prompt="Watch."), *frames, told("prompt", text="Why?"), told("interrupt"), told("stop")]
    for _ in range(500):
        socket = Socket(*whole[: draw.randrange(len(whole) + 1)], leaves=True)
        assert served(llm, socket).how in ("gone", "closed")
    assert nothing_is_left(llm)


def test_when_the_server_stops_a_session_in_the_middle_of_it_ends_with_a_reason(llm):
    socket = Socket(told("start", max_new_tokens=4), told("frame", timestamp=0), jpeg())
    assert served(llm, socket, stop_after="frame_ack").how == "closed"
    assert socket.told[-1]["reason"] == "stopping" and socket.code == 1012 and nothing_is_left(llm)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", ["simple", "video"])
def test_a_client_is_told_that_the_server_has_failed_and_the_log_why(llm, kind, begun, caplog):
    class Broken(SimpleProtocol if kind == "simple" else VideoProtocol):
        def binary(self, data):
            raise ZeroDivisionError(data)

    name = {"video": ["model"], "simple": []}[kind]
    begin = [told("start" if kind == "simple" else "session.configure")] * begun
    socket = Socket(*begin, b"data", told("ping"))
    assert served(llm, socket, lambda config, now: Broken(config, now, *name)).how == "failed"
    error = next(message for message in socket.told if message["type"] == "error")
    assert "see the server's log" in error["message"] and "data" not in str(socket.told)
    assert error["code"] == ("internal_error" if kind == "simple" else "response_failed")
    assert socket.code == 1011 and "ZeroDivisionError" in caplog.text and nothing_is_left(llm)


def test_a_protocol_that_cannot_even_tell_its_end_is_closed_as_failed(llm):
    class Broken(SimpleProtocol):
        def text(self, text):
            raise ZeroDivisionError

        broken = text

    socket = Socket(told("start"))
    assert served(llm, socket, Broken).how == "failed" and socket.code == 1011


@pytest.mark.parametrize(("size", "waits"), [((2048, 2048), False), ((2048, 2049), True)])
def test_frames_of_many_pixels_wait_for_each_other_and_hold_up_no_others(llm, size, waits):
    async def serve():
        threads, other = Threads(CapacityLimiter(2), CapacityLimiter(1)), object()
        threads.large.acquire_on_behalf_of_nowait(other)
        socket = Socket(told("start", max_new_tokens=4), told("frame", timestamp=0), jpeg(size=size))
        protocol = SimpleProtocol(ServerConfig(), time.monotonic)
        connection = Connection(socket, protocol, 60.0, threads, LiveMetrics(CollectorRegistry()))
        serving = asyncio.ensure_future(connection.run(llm))
        async with asyncio.timeout(PATIENCE):
            while not acknowledged(socket) and not threads.large.statistics().tasks_waiting:
                await asyncio.sleep(0.001)
            assert acknowledged(socket) is not waits
            threads.large.release_on_behalf_of(other)
            while not acknowledged(socket):
                await asyncio.sleep(0.001)
        connection.stop()
        await serving

    asyncio.run(serve())
    assert nothing_is_left(llm)


def acknowledged(socket):
    return "frame_ack" in [message["type"] for message in socket.told]


class Silent(BaseHTTPRequestHandler):
    """A server whose video does not come; it notices that who asked has left."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.server.asked.set()
        self.connection.settimeout(PATIENCE)
        if not self.connection.recv(1):
            self.server.left.set()

    def log_message(self, *_):
        """Requests are not logged."""


@pytest.fixture
def silent():
    web = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    web.daemon_threads, web.asked, web.left = True, threading.Event(), threading.Event()
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}/a.mp4", web
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.mark.parametrize("leaves", [True, False])
def test_a_video_that_does_not_come_holds_up_neither_frames_nor_the_end(llm, silent, leaves):
    url, web = silent
    frame = told("frame", timestamp=0), jpeg()
    socket = Socket(told("start", max_new_tokens=4), told("video", path=url), *frame, told("ping"), leaves=leaves)
    socket.after = web.asked if leaves else None
    served(llm, socket, stop_after=None if leaves else "pong")
    kinds = [message["type"] for message in socket.told]
    assert "video_started" not in kinds and "error" not in kinds and nothing_is_left(llm)
    assert not web.asked.is_set() or web.left.wait(PATIENCE)  # Nothing is downloaded for a client that has gone.
    assert leaves or kinds.index("frame_ack") < kinds.index("pong")


def test_a_video_is_opened_within_the_limits(silent):
    with pytest.raises(GenerationTimeout, match=r"0\.05 s"):
        Playback(silent[0], limits=MediaLimits(timeout=0.05))


@pytest.mark.parametrize("kind", ["simple", "video"])
def test_a_frame_of_too_many_pixels_is_refused_before_it_is_decoded(llm, kind):
    huge = jpeg(size=(8192, 4097))
    if kind == "simple":
        socket = Socket(told("start"), told("frame"), huge)
        served(llm, socket, stop_after="error")
    else:
        frame = told("input.frame", seq_no=0, timestamp=0.0, mime_type="image/jpeg")
        socket = Socket(told("session.configure"), frame, huge)
        served(llm, socket, lambda config, now: VideoProtocol(config, now, "model"), stop_after="error")
    error = next(message for message in socket.told if message["type"] == "error")
    assert "8192 x 4097" in error["message"] and nothing_is_left(llm)
