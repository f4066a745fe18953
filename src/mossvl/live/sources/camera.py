"""A camera: a device of this machine, or a stream of the network; connected again when it is lost."""

import re
import sys
from collections.abc import Callable, Generator
from functools import partial

from av.container import InputContainer
from av.error import FFmpegError

from mossvl.errors import MediaError
from mossvl.live.options import MOST_FPS
from mossvl.live.sources.source import Found, FrameSource, Lost, SourceClock, SourceEvent, Timed
from mossvl.media.clip import Picture
from mossvl.media.container import open_container
from mossvl.media.fetch import source_name
from mossvl.media.frames import rgb_of, upright_of, video_stream
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits
from mossvl.options.checks import number, whole

LONGEST_PAUSE = 30.0
"""Seconds between two attempts to connect again, at most; the first one is after a second, then it doubles."""
PROTOCOLS = "http,https,tls,tcp,udp,rtp,rtsp,rtsps,rtmp,rtmps,srt,crypto,httpproxy"
DEVICES = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


class Camera(FrameSource):
    """The newest frame of a camera, `fps` times a second; times are seconds since the first frame came.

    Every frame is decoded, as each needs the one before, and the others are left out. A camera whose first connection
    fails is an error at once; one that is lost later is connected again, and each attempt is told (`Lost`, `Found`).

    Args:
        address: a device (a number, or a path such as /dev/video0), or an rtsp:, http(s):, rtmp:, srt: or udp: URL.
        fps: frames a second, at most 1000; None for all frames.
        retries: attempts to connect again, since the last frame, after which the camera has failed.
        timeout: seconds without data after which the connection is lost.

    Raises:
        MediaError: the camera cannot be opened.
        OptionError: an option is out of range.
    """

    lossless = False

    def __init__(
        self,
        address: str | int = 0,
        fps: float | None = 1.0,
        retries: int = 8,
        timeout: float = 10.0,
        *,
        limits: MediaLimits = DEFAULT_LIMITS,
        told: Callable[[SourceEvent], object] | None = None,
        clock: SourceClock | None = None,
    ) -> None:
        self._address, self._format = _place(address)
        name = source_name(self._address) if _is_url(self._address) else f"camera {self._address}"
        super().__init__(name, told, clock)
        self.fps = None if fps is None else number("fps", fps, above=0, most=MOST_FPS)
        self.retries, self.timeout = whole("retries", retries, least=0), number("timeout", timeout, above=0)
        self._limits = limits
        try:
            self._first: InputContainer | None = self._open()
        except (FFmpegError, OSError, ValueError) as error:
            raise MediaError(
                f"{self.name}: cannot be opened ({_reason(error)}); check that it is connected and its address"
            ) from error

    def read(self) -> Generator[Timed]:
        """As of every source.

        Raises:
            MediaError: the camera was lost, and no attempt to connect again has given a frame; or its video cannot be
                decoded.
        """
        begun: float | None = None
        due, attempt = 0.0, 0
        while not self.stopped.is_set():
            try:
                for picture in self._connected():
                    begun = self.clock.now() if begun is None else begun
                    if attempt:
                        attempt = 0
                        self.tell(Found(self.name))
                    now = self.clock.now() - begun
                    if self.fps is None or now >= due:
                        due = 0.0 if self.fps is None else max(due + 1 / self.fps, now)
                        yield now, picture()
                    if self.stopped.is_set():
                        return
                reason = "the stream has ended"
            except MediaError:
                raise
            except (FFmpegError, OSError, ValueError) as error:
                reason = _reason(error)
            if attempt == self.retries:
                raise MediaError(f"{self.name}: lost ({reason}), and not found again in {attempt} attempts; check it")
            attempt += 1
            pause = min(LONGEST_PAUSE, 2.0 ** (attempt - 1))
            self.tell(Lost(self.name, reason, attempt, pause))
            self.clock.wait(pause, self.stopped)

    def _connected(self) -> Generator[Picture]:
        """Yield the frames of one connection, each to be converted to RGB if it is wanted.

        Raises:
            FFmpegError, OSError: the connection has failed.
            MediaError: it gives no video, or too large frames.
        """
        container, self._first = self._first or self._open(), None
        with container:
            stream = video_stream(container, self.name)
            context = stream.codec_context
            if context is None:
                raise MediaError(f"{self.name}: no decoder for its video stream; set another codec, such as H.264")
            context.options = {"max_pixels": str(self._limits.image_pixels)}
            context.thread_type = "SLICE"  # Threads for whole frames would hold frames back.
            upright = None
            heard = self.clock.now()
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError:  # A stream may begin, or be cut, between frames.
                    frames = []
                if frames:
                    heard = self.clock.now()
                if self.clock.now() - heard > self.timeout:
                    raise TimeoutError(f"no frame can be decoded for {self.timeout:g} seconds")
                for frame in frames:
                    upright = upright or upright_of(frame)
                    yield partial(rgb_of, frame, upright, self.name)
                if self.stopped.is_set():
                    return

    def _open(self) -> InputContainer:
        options = {"max_pixels": str(self._limits.image_pixels)}
        if _is_url(self._address):
            options |= {"protocol_whitelist": PROTOCOLS}
        if self._address.lower().startswith("rtsp"):
            options |= {"rtsp_transport": "tcp"}
        return open_container(self._address, format=self._format, options=options, timeout=self.timeout)

    def close(self) -> None:
        super().close()
        first, self._first = self._first, None
        if first is not None:
            first.close()


def _is_url(address: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", address) is not None


def _place(address: str | int) -> tuple[str, str | None]:
    """Return a camera's address as FFmpeg knows it, and the format that opens it; None for FFmpeg's choice."""
    text = str(address)
    if _is_url(text):
        return text, None
    kind = next((kind for system, kind in DEVICES.items() if sys.platform.startswith(system)), None)
    if text.isdecimal() and kind == "v4l2":
        text = f"/dev/video{text}"
    return text, kind


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
