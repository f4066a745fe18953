"""A connection: carries out what its protocol asks for, between a client's socket and a live session."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from mossvl.errors import MossVLError
from mossvl.live.session import LiveSession
from mossvl.live.sources import Playback
from mossvl.live.sources.source import FrameSource, Opening
from mossvl.llm import MossVL
from mossvl.media.image import image_size
from mossvl.queries.waker import Waker
from mossvl.server.reading import placed
from mossvl.server.realtime import protocol as acts
from mossvl.server.realtime.ends import FAILED, NORMAL
from mossvl.server.realtime.metrics import LiveMetrics
from mossvl.server.realtime.pace import Pace
from mossvl.server.realtime.protocol import Act, Protocol
from mossvl.server.schemas.realtime import PlayVideo

logger = logging.getLogger("mossvl.server")
FRAME_PIXELS = 1 << 25
"""Pixels of the largest frame that is decoded: 8K has a few less."""
LARGE_PIXELS = 1 << 22
"""Pixels above which a frame takes one of `Threads.large`: 4K has twice as many."""
CLOSE_SECONDS = 10.0
"""Seconds that the end of a session may take."""
UNREAD_SECONDS = 1.0
"""Seconds that a client which does not read has to read why its connection is closed."""
MESSAGES_PER_SECOND = 500
"""A client's messages are taken no faster, after as many at once: a flood waits in its own connection."""


@dataclass(frozen=True)
class Threads:
    """Bounds the threads of all connections that decode frames: of large frames apart, which would delay all others."""

    small: CapacityLimiter
    large: CapacityLimiter


class Connection:
    """One client's connection.

    Args:
        stall: seconds within which a client must read a message.
    """

    def __init__(
        self, websocket: WebSocket, protocol: Protocol, stall: float, threads: Threads, metrics: LiveMetrics
    ) -> None:
        self._websocket, self._protocol, self._stall = websocket, protocol, stall
        self._threads, self._metrics = threads, metrics
        self.session: LiveSession | None = None
        self._lora: str | None = None
        self._changed, self._stopping = asyncio.Event(), asyncio.Event()
        self._wake = partial(Waker.here().set, self._changed)
        self._playing: tuple[FrameSource, asyncio.Task[None]] | None = None
        self._pace = Pace(MESSAGES_PER_SECOND)
        self._over = False
        self.how = "gone"
        """How the connection ends: closed by the protocol, gone (the client), stalled (the client does not read), or
        failed (this server)."""

    def stop(self) -> None:
        """The server is being stopped."""
        self._stopping.set()

    async def run(self, llm: MossVL, lora: str | None = None) -> None:
        """Serve the client until its session or its connection ends; with `lora`, that adapter watches."""
        self._lora = lora
        self._protocol.opened()
        receiving: asyncio.Future[Any] = asyncio.ensure_future(self._receive())
        try:
            await self._act(llm)
            while not self._over:
                receiving = await self._next(receiving)
                await self._act(llm)
        except TimeoutError:  # Before OSError, of which it is a kind.
            self.how = "stalled"
        except (WebSocketDisconnect, OSError):
            pass
        except Exception as error:
            logger.exception("a live session has failed")
            await self._fail(error)
        finally:
            receiving.cancel()
            await self._leave()

    async def refuse(self) -> None:
        """Send what the protocol has to say to a client that there is no room for."""
        with suppress(WebSocketDisconnect, OSError, TimeoutError):
            await self._act(None)

    # --- what comes ----------------------------------------------------------------------------------------------

    async def _receive(self) -> Any:
        if delay := self._pace.delay():
            await asyncio.sleep(delay)
        return await self._websocket.receive()

    async def _next(self, receiving: "asyncio.Future[Any]") -> "asyncio.Future[Any]":
        """Wait for something to happen, and tell the protocol; return the future of the next message."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._stopping)]
        due = self._protocol.deadline
        timeout = None if due is None else max(0.0, due - self._protocol.now())
        try:
            await asyncio.wait((receiving, *waits), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._stopping.is_set():
            self._stopping = asyncio.Event()
            self._protocol.stopping()
        if self._changed.is_set():
            self._changed.clear()
            self._tell()
        if receiving.done():
            message = receiving.result()
            if message["type"] == "websocket.disconnect":
                self._over = True
                return receiving
            self._hear(message)
            receiving = asyncio.ensure_future(self._receive())
        elif due is not None and self._protocol.deadline == due and self._protocol.now() >= due:
            self._protocol.late()
        return receiving

    def _hear(self, message: Any) -> None:
        text, data = message.get("text"), message.get("bytes")
        if text is not None:
            self._protocol.text(text)
        else:
            self._protocol.binary(data or b"")

    def _tell(self) -> None:
        for event in self.session.take() if self.session is not None else ():
            self._metrics.told(event)
            self._protocol.told(event)

    # --- what is done --------------------------------------------------------------------------------------------

    async def _act(self, llm: MossVL | None) -> None:
        """Carry out all acts; a client that does not read holds up the input, and then ends its session."""
        while self._protocol.acts and not self._over:
            await self._carry_out(self._protocol.acts.popleft(), llm)

    async def _carry_out(self, act: Act, llm: MossVL | None) -> None:
        match act:
            case acts.Send():
                await self._within(self._websocket.send_text(json.dumps(act.message, ensure_ascii=False)))
            case acts.Begin():
                assert llm is not None
                given: dict[str, Any] = {
                    "system_prompt": act.system_prompt,
                    "options": replace(act.options, lora=self._lora),
                }
                await self._try(partial(llm.live, act.prompt, prefill=act.prefill, **given), self._begun)
            case acts.Push():
                await self._push(act)
            case acts.Say():
                await self._try(partial(self._live.say, act.prompt, final=act.final), self._given)
            case acts.Interrupt():
                with suppress(MossVLError):  # It has just ended, which is told.
                    self._live.interrupt()
            case acts.Play():
                self._play(act.video)
            case acts.StopPlaying():
                self._stop_playing()
            case acts.End():
                if self.session is not None:
                    await anyio.to_thread.run_sync(self.session.close, 0.0)
            case acts.Close():
                self._over, self.how = True, "closed"
                await self._within(self._websocket.close(act.code, act.reason))

    async def _within(self, sending: Any, most: float | None = None) -> None:
        """Wait for a message to be written, for no more than `most` seconds.

        Raises:
            TimeoutError: the client does not read.
        """
        async with asyncio.timeout(self._stall if most is None else min(most, self._stall)):
            await sending

    async def _try(
        self, work: Callable[[], Any], done: Callable[[Any], None], limiter: CapacityLimiter | None = None
    ) -> None:
        """Do work in a thread; tell the protocol its error, if it has one."""
        try:
            result = await anyio.to_thread.run_sync(work, limiter=limiter or self._threads.small)
        except Exception as error:
            if not isinstance(error, MossVLError):
                logger.exception("an input of a live session has failed")
            self._protocol.failed(error)
        else:
            done(result)

    def _begun(self, session: LiveSession) -> None:
        self.session = session
        self._protocol.usage = lambda: session.usage
        self._protocol.begun()
        session.when_changed(self._wake)

    @property
    def _live(self) -> LiveSession:
        assert self.session is not None, "the protocol begins a session before it gives it anything"
        return self.session

    async def _push(self, act: acts.Push) -> None:
        """Give the session a frame, once its size is known from its header."""
        session = self._live
        limits = session.processor.limits  # Frames are decoded in this process.
        limits = replace(limits, image_pixels=min(limits.image_pixels, FRAME_PIXELS))
        sizes: list[tuple[int, int]] = []
        await self._try(partial(image_size, act.image, limits), sizes.append)
        prompts = [] if act.prompt is None else [act.prompt]
        for height, width in sizes:
            give = partial(session.give, prompts, [(act.image, act.time)], final=act.final)
            limiter = self._threads.large if height * width > LARGE_PIXELS else self._threads.small
            await self._try(give, self._given, limiter)

    def _given(self, dropped: tuple[float, ...]) -> None:
        self._protocol.pushed(dropped, self._live.pending)

    # --- a file of the server --------------------------------------------------------------------------------------

    def _play(self, video: PlayVideo) -> None:
        session = self._live

        folders, loop = self._protocol.config.media_dirs, asyncio.get_running_loop()

        def opened(stopped: threading.Event) -> Playback:
            speed, most = video.playback_speed, video.max_frames or None
            limits, pace = session.processor.limits, speed or None
            times, path = video.timestamps, placed(video.path, folders)
            playback = Playback(path, video.sample_fps, pace, times=times, most=most, limits=limits, cancel=stopped)
            loop.call_soon_threadsafe(self._begun_playing, video.path)
            return playback

        source = Opening(video.path, opened)
        self._playing = source, asyncio.ensure_future(self._played(source, session))

    def _begun_playing(self, path: str) -> None:
        self._protocol.playing(path)
        self._changed.set()

    async def _played(self, source: FrameSource, session: LiveSession) -> None:
        sent = dropped = 0

        def push_all() -> None:
            nonlocal sent, dropped
            with source:
                for seconds, frame in source:
                    dropped += len(session.push(frame, seconds))
                    sent += 1

        error: Exception | None = None
        try:
            # A thread of its own: it lasts as long as the video.
            await anyio.to_thread.run_sync(push_all, limiter=CapacityLimiter(1))
        except Exception as raised:
            error = raised
        self._playing = None
        self._protocol.played(sent, dropped, error)
        self._changed.set()

    def _stop_playing(self) -> None:
        if self._playing is not None:
            self._playing[0].stop()

    # --- the end -------------------------------------------------------------------------------------------------

    async def _fail(self, error: Exception) -> None:
        """Tell the client, if it can be told anything, that something unexpected has failed."""
        with suppress(Exception):
            self._protocol.acts.clear()
            self._protocol.broken(error)
            await self._act(None)
        self.how = "failed"

    async def _leave(self) -> None:
        """Free everything: nothing of a client that has gone stays."""
        self._over = True
        if self._playing is not None:
            self._stop_playing()
            await asyncio.wait((self._playing[1],))
        if self.session is not None:
            self.session.forget(self._wake)
            await anyio.to_thread.run_sync(self.session.close, CLOSE_SECONDS)
            self._metrics.used(self.session.usage)
            for event in self.session.take():
                self._metrics.told(event)
        if self._websocket.application_state is not WebSocketState.DISCONNECTED:
            with suppress(Exception):  # The client may be gone.
                code = NORMAL if self.how == "gone" else FAILED
                await self._within(self._websocket.close(code), UNREAD_SECONDS if self.how == "stalled" else None)
