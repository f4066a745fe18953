"""Benchmark of media loading: a synthetic video, decoded, resized, cut to patches and hashed."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

from mossvl.bench.measure import Row
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.processing.video_processor import MossVLVideoProcessor
from mossvl.sources.files import digest_of

CLIPS = {"1080p, 256 s": (1080, 1920), "360p, 256 s": (360, 640)}
SECONDS, RATE = 256, 4


def media(repeats: int) -> Iterator[Row]:
    """Measure planning time and frames per second of one video, on one loading thread and the decoder's threads."""
    processor = MossVLVideoProcessor()
    scale = tuple(processor.image_mean), tuple(processor.image_std)
    with tempfile.TemporaryDirectory() as folder:
        for name, (height, width) in CLIPS.items():
            clip = Path(folder) / f"{height}.mp4"
            make_clip(clip, height, width)
            planning, loading = [], []
            for _ in range(repeats):
                with ExitStack() as stack:
                    begun = time.perf_counter()
                    (plan,) = processor.plan([str(clip)], MediaOptions(), MediaLimits(), stack)
                    planning.append(1e3 * (time.perf_counter() - begun))
                    begun = time.perf_counter()
                    for frame in plan.frames():
                        digest_of(processor.layout.cut(frame).contiguous(), (0, 0), scale)
                    loading.append(plan.num_frames / (time.perf_counter() - begun))
            seen = f"256 frames of {plan.width} × {plan.height}"
            yield Row(f"{name}: planning", median(planning), "ms", planning, seen)
            yield Row(f"{name}: decoding, resizing, hashing", median(loading), "frames/s", loading, seen)


def make_clip(path: Path, height: int, width: int) -> None:
    """Write an H.264 video of drifting noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "g": "48"}
        for number in range(SECONDS * RATE):
            view = noise[number % 256 :, number % 256 :][:height, :width]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(view), format="rgb24")))
        out.mux(stream.encode(None))
