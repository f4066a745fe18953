"""Clips made for the tests, and the plain way to decode them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


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
