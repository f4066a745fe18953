"""Decoded frames of a video file: one container, one decoder."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
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
from mossvl.media.limits import MediaLimits, Watch
from mossvl.media.packets import PacketTable, VideoPacket
from mossvl.media.rgb import frame_on_white

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
# What these formats name, FFmpeg opens as soon as it knows the format.
_PLAYLISTS = {"applehttp", "concat", "dash", "hls", "imf", "webm_dash_manifest"}
_SCRIPTS = {"avisynth", "lavfi", "vapoursynth"}
_SESSIONS = {"rtp", "rtsp", "sap", "sdp"}
_SERIES = {"alias_pix", "brender_pix", "image2", "mlv", "vobsub"}  # several files of like names
_FORMATS = ",".join(sorted(formats_available - _PLAYLISTS - _SCRIPTS - _SESSIONS - _SERIES))
# Codecs in which a frame that FFmpeg calls "not a reference" is one for no other frame at all, so that leaving it out
# changes nothing else. (In HEVC it may still be one for a higher temporal layer.)
_SKIPS_EXACTLY = {"h264", "mpeg4", "mpeg2video"}


class FrameReader:
    """An open video file.

    Args:
        path: the file.
        name: what to call it in messages.
        limits: `image_pixels` bounds the frames' area; it is checked before decoding, and by the decoder.
        num_threads: decoder threads.
        careful: slower, and sure to give every frame there is to give: the decoder works on one frame at a time, so
            that an error takes no other frame with it, and skips none.
        seeks: whether the file can be relied upon to go where it is sent.

    Raises:
        MediaError: not a video, no video stream, no decoder for it, or frames too large.
    """

    def __init__(
        self, path: Path, name: str, limits: MediaLimits, num_threads: int, careful: bool = False, seeks: bool = True
    ) -> None:
        self.path, self.name, self.limits = path, name, limits
        self.num_threads, self.careful, self.seeks = num_threads, careful, seeks
        self._converter = VideoReformatter()
        self._upright: Callable[[NDArray[Any]], NDArray[Any]] | None = None
        self._open()

    def _open(self) -> None:
        self._next: int | None = 0  # Position of the packet to be read next, if that is known.
        self._container: InputContainer = _open_container(self.path, self.name, self.limits)
        try:
            self._stream = _video_stream(self._container, self.name)
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
        """Seconds: the least time of a picture or of sound; zero if the file does not tell."""
        return (self._container.start_time or 0) / av.time_base

    def scan(self, watch: Watch) -> PacketTable:
        """Read all packets, without decoding. Raises MediaError when there are none."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        assert self._stream.time_base is not None
        # AVI stores no pts, and FFmpeg's guesses follow the order of storing unless it looks into the frames.
        reordered = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        self._next = None
        try:
            return PacketTable.build(self._packets(watch), self._stream.time_base, rate, reordered)
        except ValueError as error:
            raise MediaError(f"{self.name}: its video stream holds no frames; the file may be cut off") from error

    def _packets(self, watch: Watch) -> Iterator[VideoPacket]:
        """Packets from here to the end, or to where the file can no longer be read."""
        packets = self._container.demux(self._stream)
        while True:
            watch.check()
            try:
                packet = next(packets)
            except (FFmpegError, StopIteration):
                return
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                return  # The marker that PyAV puts at the end.
            yield packet

    def _packets_from(self, table: PacketTable, start: int, watch: Watch) -> Iterator[tuple[int, VideoPacket]]:
        """(position, packet) from position `start`, or from before it, on."""
        if table.unique and self.seeks:
            # Some formats seek by presentation time, some by decoding time, some not quite to where they are told.
            before = table.keyframes[max(int(np.searchsorted(table.keyframes, start)) - 1, 0)]
            for ticks in (table.pts[start], table.dts[start], table.dts[before]):
                packets = self._after_seeking(table, int(ticks), watch)
                first = next(packets, None)
                if first is not None and first[0] <= start:
                    return chain([first], packets)
        return self._by_counting(start, watch)

    def _after_seeking(self, table: PacketTable, ticks: int, watch: Watch) -> Iterator[tuple[int, VideoPacket]]:
        """(position, packet) from the first that is known again; ends should one follow that is out of place."""
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
        """(position, packet) from here if that is known to be before `start`, else from the beginning."""
        if self._next is None or self._next > start:
            self.close()
            self._open()
        for position, packet in enumerate(self._packets(watch), self._next or 0):
            self._next = position + 1
            yield position, packet

    def decode(
        self, table: PacketTable, start: int, stop: int, wanted: Iterable[int], watch: Watch
    ) -> Iterator[VideoFrame]:
        """Decode the packets at positions `start` (a keyframe's) to `stop`.

        Yields:
            frames in presentation order, each with its index as `pts`. Frames not in `wanted` may be left out. Nothing
            if decoding cannot begin at `start` after all: the frame is broken, or less than a keyframe should be.
        """
        first = max(int(table.index[start]), 0) if start else 0
        begun = first == 0
        for number, frame in enumerate(self._output(table, start, stop, frozenset(wanted), watch)):
            if not table.ordered:
                frame.pts = number
            # Frames shown before the first keyframe but stored after it lack what they refer to.
            if frame.pts is None or frame.pts < first:
                continue
            if not begun and not (frame.pts == first and frame.key_frame):
                return
            begun = True
            yield frame

    def _output(
        self, table: PacketTable, start: int, stop: int, wanted: frozenset[int], watch: Watch
    ) -> Iterator[VideoFrame]:
        """All that comes out of the decoder for the packets `start` to `stop`, with their frames' indices as pts."""
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
        """What the decoder gives for one more packet; for None, what it still holds."""
        if packet is not None and packet.size == 0:
            return []  # "Show the last frame again"; to the decoder it would mean the end.
        if self._alpha is not None and packet is not None:
            self._alpha.decode(packet)
        try:
            frames = self._stream.codec_context.decode(packet)
        except (FFmpegError, EOFError):
            return []  # Broken data; the frame before it will be shown in its place.
        if self._alpha is not None:
            for frame in frames:
                self._alpha.attach(frame)
        return frames

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A frame as uint8 (height, width, 3), on white where it is transparent, turned as the file says.

        It is C-contiguous, and has memory of its own.
        """
        if self._upright is None:
            self._upright = _upright(frame)
        # One thread: starting more costs longer than the conversion. Keeping the converter saves its tables.
        try:
            converted = self._converter.reformat(frame, format="rgb24", threads=1)
            alpha = alpha_of(frame, self._converter)
        except FFmpegError as error:
            raise MediaError(
                f"{self.name}: frames of format {frame.format.name} cannot be made RGB ({error})"
            ) from error
        pixels: NDArray[Any] = converted.to_ndarray()
        if alpha is not None:
            pixels = frame_on_white(pixels, alpha)
        return np.ascontiguousarray(self._upright(pixels.copy() if converted is frame else pixels))


def match_frames(
    frames: Iterable[VideoFrame],
    wanted: deque[int],
    *,
    exact: bool = False,
    or_after: bool = False,
) -> Iterator[VideoFrame]:
    """Yield the frame for each index in `wanted`, taking the index out.

    Args:
        frames: in presentation order, with their index as `pts`.
        exact: give up at the first index whose very frame is missing. Else the frame before it stands in.
        or_after: with no frame before, the one after stands in. Else give up.
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
        return av.open(str(path.absolute()), options=options, metadata_errors="ignore")
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{name}: neither an image nor a video that can be read ({reason}); it is something else, "
            "or broken, or a playlist of other files"
        ) from error


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """The stream that FFmpeg calls best; cover pictures are not video. All other streams are left unread."""
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


def _upright(frame: VideoFrame) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What turns and mirrors the pixels (height, width, 3) of a file's frames; for quarter turns, others are ignored.

    It is the same for all frames of a file. Ask one only: what PyAV makes for the answer refers to the frame and the
    frame to it, so that the frame's memory waits for the garbage collector.
    """
    if frame.rotation == 0:
        return lambda pixels: pixels
    side_data: Any = frame.side_data  # PyAV's own annotation names a single one of its keys.
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    a, b, _, c, d = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), dtype=np.int32)[:5].tolist()
    swapped = abs(b) > abs(a)
    down, right = (b, c) if swapped else (d, a)
    flips = slice(None, None, -1 if down < 0 else 1), slice(None, None, -1 if right < 0 else 1)
    return lambda pixels: (pixels.swapaxes(0, 1) if swapped else pixels)[flips]
