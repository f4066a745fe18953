"""Benchmark of media loading: from a file, or pictures in memory, to patches and digests."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch

from mossvl.bench.measure import Row
from mossvl.bench.pictures import bench_processor, load, noise, query_of
from mossvl.cores import cores
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.processing import crew
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.query import Query

CLIPS = {"1080p, 256 s": (1080, 1920), "360p, 256 s": (360, 640)}
SECONDS, RATE = 256, 4
CORES = (1, 2, 4, 8, 16)


def media(repeats: int) -> Iterator[Row]:
    """Measure planning, and frames per second of one query about a video file: decoded, resized, cut, hashed."""
    processor = bench_processor()
    with tempfile.TemporaryDirectory() as folder:
        for name, size in CLIPS.items():
            clip = Path(folder) / f"{size[0]}.mp4"
            make_clip(clip, *size)
            planning = []
            for _ in range(repeats):
                with ExitStack() as stack:
                    begun = time.perf_counter()
                    (plan,) = processor.video_processor.plan([str(clip)], MediaOptions(), MediaLimits(), stack)
                    planning.append(1e3 * (time.perf_counter() - begun))
            seen = f"{plan.num_frames} frames of {plan.width} × {plan.height}"
            yield Row(f"{name}: planning", median(planning), "ms", planning, seen)
            rates = _rates(query_of(clip), processor, repeats)
            yield Row(f"{name}: decoding, resizing, hashing", median(rates), "frames/s", rates, seen)


def by_cores(repeats: int) -> Iterator[Row]:
    """Measure frames per second of one query, by the number of cores that it may use."""
    processor = bench_processor()
    counts = sorted({min(count, cores()) for count in CORES})
    with tempfile.TemporaryDirectory() as folder:
        for name, make in _QUERIES.items():
            query = make(Path(folder))
            for count in counts:
                processor.video_processor.num_extract_threads = count
                with on_cores(count):
                    rates = _rates(query, processor, repeats)
                yield Row(f"{name}: {count} core{'s' * (count > 1)}", median(rates), "frames/s", rates)


def _of_clip(folder: Path) -> Query:
    make_clip(folder / "clip.mp4", 1080, 1920)
    return query_of(folder / "clip.mp4")


_QUERIES: dict[str, Callable[[Path], Query]] = {
    "1080p, 256 s: decoding, resizing, hashing": _of_clip,
    "256 frames of 640 × 352 in memory": lambda _: query_of(noise(256, 352, 640)),
    "64 frames of 1920 × 1080 in memory": lambda _: query_of(noise(64, 1080, 1920)),
    "32 images of 1024 × 1024 in memory": lambda _: query_of(*noise(32, 1024, 1024)),
}


def _rates(query: Query, processor: MossVLProcessor, repeats: int) -> list[float]:
    """Frames per second of loading a query's media, after an unmeasured run."""
    rates = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        frames = load(query, processor)
        rates.append(frames / (time.perf_counter() - begun))
    return rates[1:]


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Let this thread and those that it starts use so many cores, where the system can tell threads so."""
    threads, everything = torch.get_num_threads(), os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else {0}
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(everything)[:count])
        torch.set_num_threads(count)
        crew.renew()
        yield
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, everything)
        torch.set_num_threads(threads)
        crew.renew()


def make_clip(path: Path, height: int, width: int) -> None:
    """Write an H.264 video of drifting noise."""
    rng = np.random.default_rng(0)
    drifting = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "g": "48"}
        for number in range(SECONDS * RATE):
            view = drifting[number % 256 :, number % 256 :][:height, :width]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(view), format="rgb24")))
        out.mux(stream.encode(None))
