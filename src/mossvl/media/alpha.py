"""The opacity of video frames."""

from typing import Any

import numpy as np
from av.codec import CodecContext
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mossvl.media.limits import MediaLimits

_NUMBER_BYTES = 8


def alpha_of(frame: VideoFrame, converter: VideoReformatter) -> NDArray[np.uint8] | None:
    """Return the alpha plane, uint8 (height, width), 255 for opaque; None if the pixel format has no alpha."""
    beside: Any = frame.opaque
    if isinstance(beside, VideoFrame):
        same_size = (beside.height, beside.width) == (frame.height, frame.width)
        return _luma(beside) if same_size else None
    if not (frame.format.has_palette or any(part.is_alpha for part in frame.format.components)):
        return None
    pixels: NDArray[Any] = converter.reformat(frame, format="rgba", threads=1).to_ndarray()
    return pixels[:, :, 3]


class AlphaBeside:
    """Decodes the alpha of VP8 and VP9 in WebM: a second, grey stream in the side data of each packet.

    FFmpeg's native VP8 and VP9 decoders ignore that side data.
    """

    def __init__(self, stream: VideoStream, limits: MediaLimits) -> None:
        context = CodecContext.create(stream.codec_context.codec.canonical_name, "r")
        assert isinstance(context, VideoCodecContext)
        context.thread_count = 1  # Frame threads would delay a packet's frame.
        context.options = {"max_pixels": str(limits.image_pixels)}
        self._context = context
        self._waiting: dict[int, VideoFrame] = {}

    @staticmethod
    def is_in(stream: VideoStream) -> bool:
        """Whether a stream carries alpha in side data."""
        return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9")

    def decode(self, packet: Any) -> None:
        """Decode the alpha of a packet that is about to go to the colour decoder."""
        if packet.pts is None or not packet.has_sidedata("matroska_block_additional"):
            return
        beside = Packet(bytes(packet.get_sidedata("matroska_block_additional"))[_NUMBER_BYTES:])
        beside.pts = packet.pts
        try:
            for frame in self._context.decode(beside):
                self._waiting[packet.pts] = frame
        except (FFmpegError, EOFError):
            return  # Broken alpha: the frame stays opaque.

    def attach(self, frame: VideoFrame) -> None:
        """Attach the alpha of a colour frame for `alpha_of`; frames come in ascending order of pts."""
        frame.opaque = self._waiting.pop(frame.pts, None) if frame.pts is not None else None
        for earlier in [pts for pts in self._waiting if frame.pts is not None and pts < frame.pts]:
            del self._waiting[earlier]

    def flush(self) -> None:
        """Drop decoded alpha before a seek."""
        self._context.flush_buffers()
        self._waiting.clear()


def _luma(frame: VideoFrame) -> NDArray[np.uint8]:
    depth = frame.format.components[0].bits
    plane: Any = frame.planes[0]
    values: NDArray[Any] = np.frombuffer(plane, np.uint8 if depth == 8 else np.uint16).reshape(frame.height, -1)
    return (values[:, : frame.width] >> (depth - 8)).astype(np.uint8)
