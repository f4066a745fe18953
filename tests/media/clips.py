"""Clips made for the tests, and the plain way to decode them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

VFR = [0, 1, 2, 5, 6, 20, 21, 22, 40, 41, 42, 60, 90, 91, 92, 93]
OPEN_GOP = {"preset": "veryfast", "x264-params": "open-gop=1:b-adapt=0:min-keyint=8"}
FAST_VP9 = {"deadline": "realtime", "cpu-used": "8"}

# name: how to write it
KINDS: dict[str, dict[str, Any]] = {
    "long-gop.mp4": {"frames": 40},
    "short-gop.mp4": {"frames": 40, "gop": 5},
    "intra.mp4": {"frames": 12, "gop": 1},
    "b-frames.mp4": {"frames": 40, "gop": 12, "b_frames": 3, "options": {"preset": "veryfast"}},
    "b-frames.mkv": {"frames": 40, "gop": 12, "b_frames": 3, "options": {"preset": "veryfast"}},
    "b-frames.ts": {"frames": 40, "gop": 12, "b_frames": 2},
    "open-gop.mp4": {"frames": 40, "gop": 8, "b_frames": 3, "options": OPEN_GOP},
    "open-gop.ts": {"frames": 40, "gop": 8, "b_frames": 3, "options": OPEN_GOP},
    "intra-refresh.mp4": {"frames": 60, "gop": 10, "options": {"x264-params": "intra-refresh=1"}},
    "variable-rate.mp4": {"frames": 16, "gop": 5, "b_frames": 2, "pts": VFR, "rate": 30},
    "variable-rate.mkv": {"frames": 16, "gop": 5, "b_frames": 2, "pts": VFR, "rate": 30},
    "late-start.mp4": {"frames": 20, "gop": 5, "b_frames": 2, "pts": range(100, 120)},
    "one-frame.mp4": {"frames": 1},
    "two-frames.mp4": {"frames": 2},
    "three-frames.mp4": {"frames": 3, "b_frames": 2},
    "ten-bit.mkv": {"frames": 12, "gop": 5, "pix_fmt": "yuv420p10le"},
    "odd-size.mkv": {"frames": 12, "gop": 5, "pix_fmt": "yuv444p", "size": (33, 47)},
    "fragmented.mp4": {"frames": 20, "gop": 5, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.avi": {"frames": 30, "gop": 8, "codec": "mpeg4"},
    "mpeg4-b.avi": {"frames": 30, "gop": 8, "codec": "mpeg4", "b_frames": 2},
    "h264-b.avi": {"frames": 30, "gop": 8, "b_frames": 2},
    "mpeg2.mpg": {"frames": 40, "gop": 8, "codec": "mpeg2video", "b_frames": 2, "rate": 25},
    "vp9.webm": {"frames": 30, "gop": 8, "codec": "libvpx-vp9", "options": FAST_VP9},
    "raw.h264": {"frames": 30, "gop": 8, "b_frames": 2},
    "animation.gif": {"frames": 12, "codec": "gif", "pix_fmt": "rgb8"},
    "animation.png": {"frames": 8, "codec": "apng", "pix_fmt": "rgb24", "format": "apng"},
}


@dataclass
class Made:
    path: Path
    frames: list[np.ndarray]


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Frame `number` of every clip: a moving gradient with a square whose grey value is the number."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 3 + number * 5, columns * 2 + number * 3, rows + columns + number], axis=2) % 256
    pixels[4:12, 4:12] = number * 7 % 256
    return pixels.astype(np.uint8)


def write_clip(
    path: Path,
    frames: int = 20,
    *,
    codec: str = "libx264",
    gop: int = 250,
    b_frames: int = 0,
    size: tuple[int, int] = (48, 64),
    pts: Sequence[int] | None = None,
    rate: int = 10,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    format: str | None = None,
    rotation: int | None = None,
    drawn: Callable[[int, int, int], np.ndarray] = picture,
) -> Path:
    """Encode `frames` pictures, `drawn` by number, height and width; returns `path`.

    The i-th is at time pts[i] / rate, i / rate by default.
    """
    height, width = size
    with av.open(str(path), "w", format=format, options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, rate)
        x264 = {"preset": "ultrafast", "g": str(gop), "bf": str(b_frames), "sc_threshold": "0"}
        stream.codec_context.options = (x264 if codec == "libx264" else {}) | (options or {})
        if codec != "libx264" and b_frames:
            stream.codec_context.max_b_frames = b_frames
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawn(number, height, width), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame.reformat(format=pix_fmt)))
        out.mux(stream.encode(None))
    return path


def plain_decode(path: Path) -> list[np.ndarray]:
    """All frames by PyAV's own loop."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]


def write_silence(out: Any, stream: Any) -> None:
    """A tenth of a second of sound without any, as `stream` of the file that is being written."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 44100, 0
    resampled = av.AudioResampler(stream.format, "mono", 44100, frame_size=stream.codec_context.frame_size or 1152)
    for part in resampled.resample(frame):
        out.mux(stream.encode(part))
    out.mux(stream.encode(None))
