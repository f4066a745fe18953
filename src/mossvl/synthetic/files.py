"""Scenes and clips as PNG and MP4 files."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import groupby, repeat
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mossvl.synthetic.render import render
from mossvl.synthetic.scene import Clip, Scene

RUN = 64
"""Different frames drawn at once."""


def write_picture(scene: Scene, path: str | Path, height: int, width: int) -> None:
    """Write a scene as a PNG file (or another format, by its file extension) of `height` × `width` pixels."""
    Image.fromarray(render([scene], height, width)[0].numpy()).save(path)


def write_clip(clip: Clip, path: str | Path, height: int, width: int) -> None:
    """Write a clip as an MP4 file: H.264, 4:2:0, `clip.rate` frames per second, the first at 0.

    Raises:
        ValueError: height or width is odd, impossible in 4:2:0.
    """
    write_frames(_drawn(clip, height, width), clip.rate, path, height, width)


def _drawn(clip: Clip, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Frame after frame; those between which nothing changes are drawn once."""
    scenes = (clip.at(number / clip.rate) for number in range(clip.num_frames))
    runs = [(scene, len(list(same))) for scene, same in groupby(scenes)]
    for start in range(0, len(runs), RUN):
        some = runs[start : start + RUN]
        pictures = render([scene for scene, _ in some], height, width).numpy()
        for picture, (_, count) in zip(pictures, some, strict=True):
            yield from repeat(picture, count)


def write_frames(frames: Iterable[NDArray[np.uint8]], rate: int, path: str | Path, height: int, width: int) -> None:
    """Write frames, uint8 (height, width, 3) sRGB, like those of a clip.

    Raises:
        ValueError: height or width is odd, impossible in 4:2:0.
    """
    if height % 2 or width % 2:
        raise ValueError(f"a clip of {width} × {height} pixels: both must be even")
    with av.open(str(path), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "flags": "+bitexact"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
