"""Decoding the frames of a video file: one container, one decoder."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from threading import local
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.format import formats_available
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mossvl.errors import MediaError
from mossvl.media.alpha import AlphaBeside, alpha_of
from mossvl.media.clip import Picture
from mossvl.media.container import open_container
from mossvl.media.limits import MediaLimits, Watch
from mossvl.media.packets import PacketTable, VideoPacket
from mossvl.media.rgb import frame_on_white

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
# Formats that refer to other files or hosts, which FFmpeg would open.
_PLAYLISTS = {"applehttp", "concat", "dash", "hls", "imf", "webm_dash_manifest"}
_SCRIPTS = {"avisynth", "lavfi", "vapoursynth"}
_SESSIONS = {"rtp", "rtsp", "sap", "sdp"}
_SERIES = {"alias_pix", "brender_pix", "image2", "mlv", "vobsub"}  # several files with numbered or matching names
_CHARACTERS = {"adf", "bin", "idf", "tty", "xbin"}  # Text, of which FFmpeg would draw a video: notes.txt.
_FORMATS = ",".join(sorted(formats_available - _PLAYLISTS - _SCRIPTS - _SESSIONS - _SERIES - _CHARACTERS))
# Codecs whose NONREF frames are never referenced, so that skipping one changes no other frame. (In HEVC, a higher
# temporal layer may still reference one.)
_SKIPS_EXACTLY = {"h264", "mpeg4", "mpeg2video"}


class FrameReader:
    """An open video file.

    Args:
        path: the file.
        name: name of the file in messages.
        limits: `image_pixels` bounds a frame; checked before decoding, and by the decoder.
        num_threads: decoder threads.
        careful: decode every decodable frame, more slowly: no skipped frames, and no frame threads, where an error
            costs the frames beside it.
        seeks: whether seeking in the file is reliable.

    Raises:
        MediaError: not a video, no video stream, no decoder, or frames larger than `limits.image_pixels`.
    """

    def __init__(
        self, path: Path, name: str, limits: MediaLimits, num_threads: int, careful: bool = False, seeks: bool = True
    ) -> None:
        self.path, self.name, self.limits = path, name, limits
        self.num_threads, self.careful, self.seeks = num_threads, careful, seeks
        self._upright: Callable[[NDArray[Any]], NDArray[Any]] | None = None
        self._open()

    def _open(self) -> None:
        self._next: int | None = 0  # Position of the next packet; None after a seek.
        self._container: InputContainer = _open_container(self.path, self.name, self.limits)
        try:
            self._stream = video_stream(self._container, self.name)
            context = self._stream.codec_context
            if context is None:
                raise MediaError(f"{self.name}: no decoder for its video stream; convert it, for example to H.264")
            if context.width * context.height > self.limits.image_pixels:
                raise MediaError(
                    f"{self.name}: frames of {context.width} x {context.height} pixels, more than the "
                    f"{self.limits.image_pixels} allowed",
                    setting="MediaLimits.image_pixels",
                    advice="; use a smaller video or raise {}",
                )
            context.thread_type = "SLICE" if self.careful else "AUTO"
            context.thread_count = self.num_threads
            context.options = {"max_pixels": str(self.limits.image_pixels)}
            self._alpha = AlphaBeside(self._stream, self.limits) if AlphaBeside.is_in(self._stream) else None
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        self._container.close()

    @property
    def start(self) -> float:
        """Seconds: the first timestamp of any stream; zero if unknown."""
        return (self._container.start_time or 0) / av.time_base

    def scan(self, watch: Watch) -> PacketTable:
        """Read all packets without decoding. Raises MediaError if the stream has no frames."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        assert self._stream.time_base is not None
        # AVI stores no pts; FFmpeg guesses them in decoding order, which is wrong with B-frames.
        reordered = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        self._next = None
        try:
            return PacketTable.build(self._packets(watch), self._stream.time_base, rate, reordered)
        except ValueError as error:
            raise MediaError(f"{self.name}: its video stream holds no frames; the file may be cut off") from error

    def _packets(self, watch: Watch) -> Iterator[VideoPacket]:
        """Yield packets from the current place to the end, or to the first read error."""
        packets = self._container.demux(self._stream)
        while True:
            watch.check()
            try:
                packet = next(packets)
            except (FFmpegError, StopIteration):
                return
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                return  # PyAV's flush packet at the end.
            yield packet

    def _packets_from(self, table: PacketTable, start: int, watch: Watch) -> Iterator[tuple[int, VideoPacket]]:
        """Yield (position, packet) from position `start`, or from an earlier one."""
        if table.unique and self.seeks:
            # Some formats seek by pts, some by dts, some only roughly.
            before = table.keyframes[max(int(np.searchsorted(table.keyframes, start)) - 1, 0)]
            for ticks in (table.pts[start], table.dts[start], table.dts[before]):
                packets = self._after_seeking(table, int(ticks), watch)
                first = next(packets, None)
                if first is not None and first[0] <= start:
                    return chain([first], packets)
        return self._by_counting(start, watch)

    def _after_seeking(self, table: PacketTable, ticks: int, watch: Watch) -> Iterator[tuple[int, VideoPacket]]:
        """Yield (position, packet) from the first packet found in the table; stop at a packet out of order."""
        self._next = None
        try:
            self._container.seek(ticks, stream=self._stream)
        except FFmpegError:
            return
        expected: int | None = None
        for packet in self._packets(watch):
            position = table.find(packet)
            if expected is not None and position != expected:
                self.seeks = False
                return
            if position is not None:
                yield position, packet
                expected = position + 1

    def _by_counting(self, start: int, watch: Watch) -> Iterator[tuple[int, VideoPacket]]:
        """Yield (position, packet) without seeking: from the current position if not past `start`, else from 0."""
        if self._next is None or self._next > start:
            self.close()
            self._open()
        for position, packet in enumerate(self._packets(watch), self._next or 0):
            self._next = position + 1
            yield position, packet

    def decode(
        self, table: PacketTable, start: int, stop: int, wanted: Iterable[int], watch: Watch
    ) -> Iterator[VideoFrame]:
        """Decode the packets from position `start`, a keyframe, to `stop`.

        Yields:
            frames in presentation order, each with its index as `pts`. Frames not in `wanted` may be skipped. Nothing
            if decoding cannot begin at `start`: the keyframe is broken, or no keyframe.
        """
        first = max(int(table.index[start]), 0) if start else 0
        begun = first == 0
        for number, frame in enumerate(self._output(table, start, stop, frozenset(wanted), watch)):
            if not table.ordered:
                frame.pts = number
            # Leading frames (stored after the keyframe, shown before it) lack their references.
            if frame.pts is None or frame.pts < first:
                continue
            if not begun and not (frame.pts == first and frame.key_frame):
                return
            begun = True
            yield frame

    def _output(
        self, table: PacketTable, start: int, stop: int, wanted: frozenset[int], watch: Watch
    ) -> Iterator[VideoFrame]:
        """Yield all frames that the decoder returns for the packets `start` to `stop`, indices as pts."""
        packets = self._packets_from(table, start, watch)
        context = self._stream.codec_context
        context.flush_buffers()
        if self._alpha is not None:
            self._alpha.flush()
        skips = table.ordered and not self.careful and context.name in _SKIPS_EXACTLY
        for position, packet in packets:
            if position >= start:
                index = int(table.index[position])
                packet.pts = index
                context.skip_frame = "NONREF" if skips and index not in wanted else "DEFAULT"
                yield from self._decoded(packet)
            if position >= stop:
                break
        yield from self._decoded(None)

    def _decoded(self, packet: VideoPacket | None) -> list[VideoFrame]:
        """Return the frames that the decoder returns for a packet; None flushes the decoder."""
        if packet is not None and packet.size == 0:
            return []  # "Repeat the last frame"; the decoder would take the empty packet for a flush.
        if self._alpha is not None and packet is not None:
            self._alpha.decode(packet)
        try:
            frames = self._stream.codec_context.decode(packet)
        except (FFmpegError, EOFError):
            return []  # Broken data; `match_frames` shows the frame before instead.
        if self._alpha is not None:
            for frame in frames:
                self._alpha.attach(frame)
        return frames

    def picture(self, frame: VideoFrame) -> Picture:
        """The picture of a frame, on white, rotation applied; asked for its pixels, it raises as `rgb_of`."""
        if self._upright is None:
            self._upright = upright_of(frame)
        return partial(rgb_of, frame, self._upright, self.name)


class _Converters(local):
    """A converter for each thread, which keeps its tables."""

    def __init__(self) -> None:
        self.own = VideoReformatter()


_converters = _Converters()


def rgb_of(frame: VideoFrame, upright: Callable[[NDArray[Any]], NDArray[Any]], name: str) -> NDArray[np.uint8]:
    """Convert a frame to a new array uint8 (height, width, 3), RGB, C-contiguous: on white, rotation applied.

    Raises:
        MediaError: the pixel format cannot be converted.
    """
    converter = _converters.own
    try:
        # One thread: starting more takes longer than the conversion.
        converted = converter.reformat(frame, format="rgb24", threads=1)
        alpha = alpha_of(frame, converter)
    except FFmpegError as error:
        raise MediaError(
            f"{name}: frames of format {frame.format.name} cannot be converted to RGB ({error})"
        ) from error
    pixels: NDArray[Any] = converted.to_ndarray()
    if alpha is not None:
        pixels = frame_on_white(pixels, alpha)
    return np.ascontiguousarray(upright(pixels.copy() if converted is frame else pixels))


def match_frames(
    frames: Iterable[VideoFrame],
    wanted: deque[int],
    *,
    exact: bool = False,
    or_after: bool = False,
) -> Iterator[VideoFrame]:
    """Yield the frame for each index in `wanted`, removing the index.

    Args:
        frames: in presentation order, with their index as `pts`.
        exact: stop at the first missing frame. Otherwise the frame before replaces a missing frame.
        or_after: where no frame is before the missing frame, the next frame replaces it. Otherwise stop there.
    """
    shown: VideoFrame | None = None
    for frame in frames:
        while wanted and frame.pts is not None and frame.pts >= wanted[0]:
            if frame.pts == wanted[0] or (or_after and shown is None):
                found: VideoFrame | None = frame
            else:
                found = None if exact else shown
            if found is None:
                return
            wanted.popleft()
            yield found
        shown = frame
        if not wanted:
            return
    while wanted and shown is not None and not exact:
        wanted.popleft()
        yield shown


def _open_container(path: Path, name: str, limits: MediaLimits) -> InputContainer:
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS, "max_pixels": str(limits.image_pixels)}
    try:
        return open_container(str(path.absolute()), options=options)
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{name}: neither an image nor a video that can be read ({reason}); the file is of another "
            "type, or broken, or a playlist of other files"
        ) from error


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the stream that FFmpeg ranks best, cover pictures apart; discard all other streams."""
    videos = [stream for stream in container.streams.video if not stream.disposition & _STILLS]
    if not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{name}: has no video stream (it has: {kinds}); give a file with pictures")
    best = container.streams.best("video")
    chosen = next((stream for stream in videos if best is not None and stream.index == best.index), videos[0])
    for stream in container.streams:
        if stream.index != chosen.index:
            stream.discard = Discard.all
    return chosen


def upright_of(frame: VideoFrame) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a function that rotates and mirrors pixels (height, width, 3) as the display matrix says.

    Only quarter turns are applied. All frames of a file share the matrix; read it once: PyAV's side data and the frame
    form a reference cycle, so that the frame's memory waits for the garbage collector.
    """
    if frame.rotation == 0:
        return lambda pixels: pixels
    side_data: Any = frame.side_data  # PyAV's annotation lacks most of its keys.
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    a, b, _, c, d = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), dtype=np.int32)[:5].tolist()
    swapped = abs(b) > abs(a)
    down, right = (b, c) if swapped else (d, a)
    flips = slice(None, None, -1 if down < 0 else 1), slice(None, None, -1 if right < 0 else 1)
    return lambda pixels: (pixels.swapaxes(0, 1) if swapped else pixels)[flips]
