"""How fast reading a video is, and how much memory it takes, against plain PyAV.

    python benchmarks/decode.py --output decode.md

Makes clips, reads frames out of them with `Clip` and in other ways, and writes two Markdown tables of ratios: the time
to get some frames of a clip (opening included), and the frames a second, with memory, when all or many frames are read
and perhaps resized. Each row is measured in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from mossvl.media.video import open_clip

RATE = 25
# name: (frames, height, width, frames from one keyframe to the next)
CLIPS = {
    "1080p, 20 s, GOP 12": (500, 1080, 1920, 12),
    "1080p, 20 s, GOP 250": (500, 1080, 1920, 250),
    "360p, 120 s, GOP 12": (3000, 360, 640, 12),
    "360p, 120 s, GOP 250": (3000, 360, 640, 250),
}
TARGETS = (1, 4, 20, 120)


def make_clip(path: Path, frames: int, height: int, width: int, gop: int) -> None:
    """H.264 with B-frames: a view that wanders over a still picture, through noise that changes."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (1, 3, height // 24, width // 24), dtype=np.uint8))
    still = torch.nn.functional.interpolate(coarse, (height + 200, width + 200), mode="bicubic")[0].permute(1, 2, 0)
    noise = rng.integers(0, 24, (height + 200, width + 200, 3), dtype=np.uint8)
    picture = np.minimum(still.numpy(), 208) + noise
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        options = {"preset": "veryfast", "crf": "25", "g": str(gop), "sc_threshold": "0", "bf": "2"}
        stream.codec_context.options = options
        for number in range(frames):
            down, right = (int(100 + 99 * turn(number / 25)) for turn in (np.sin, np.cos))
            grain_down, grain_right = rng.integers(0, 200, 2)
            grain = noise[grain_down : grain_down + height, grain_right : grain_right + width]
            view = picture[down : down + height, right : right + width] + grain
            out.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        out.mux(stream.encode(None))


def by_clip(path: str, targets: list[int]) -> Iterator[np.ndarray]:
    with open_clip(path) as clip:
        yield from clip.read(targets)


def timestamps(container: Any, stream: Any) -> list[int]:
    """When each frame is shown. Like `Clip`, the two readers below have to know it before they can choose frames."""
    return sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)


def by_seeking(path: str, targets: list[int]) -> Iterator[np.ndarray]:
    """For each target: seek, decode from the keyframe on."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        times = timestamps(container, stream)
        for target in targets:
            container.seek(times[target], stream=stream)
            found = next(frame for frame in container.decode(stream) if (frame.pts or 0) >= times[target])
            yield found.to_ndarray(format="rgb24")


def by_decoding(path: str, targets: list[int]) -> Iterator[np.ndarray]:
    """Decode everything up to the last target."""
    wanted = set(targets)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        container.seek(timestamps(container, stream)[0], stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                yield frame.to_ndarray(format="rgb24")
            if number == targets[-1]:
                return


def by_plain_loop(path: str, targets: list[int]) -> Iterator[np.ndarray]:
    """What one writes first: PyAV's defaults, every frame converted."""
    with av.open(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            pixels = frame.to_ndarray(format="rgb24")
            if number in targets:
                yield pixels


Reader = Callable[[str, list[int]], Iterator[np.ndarray]]
READERS: dict[str, Reader] = {
    "clip": by_clip,
    "seek": by_seeking,
    "through": by_decoding,
    "plain": by_plain_loop,
}


def keep(pixels: np.ndarray) -> None:
    """A consumer that takes no time."""


def resized(pixels: np.ndarray) -> None:
    """A consumer that resizes as the processor does, and drops the result."""
    frame = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    size = (frame.shape[2] // 2 // 32 * 32, frame.shape[3] // 2 // 32 * 32)
    torch.nn.functional.interpolate(frame, size, mode="bicubic", antialias=True)


def measure(readers: list[str], path: str, targets: list[int], consumer: str, repeats: int) -> dict[str, float]:
    """Best seconds of each reader, taken in turns; and the peak of memory above what the imports take, in MB."""
    consume = {"keep": keep, "resized": resized}[consumer]
    resized(np.zeros((64, 64, 3), np.uint8))  # So that torch's first-use costs are in neither time nor memory.
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(repeats):
        for name in readers:
            begun = time.perf_counter()
            count = 0
            for pixels in READERS[name](path, targets):
                consume(pixels)
                count += 1
            assert count == len(targets)
            best[name] = min(best[name], time.perf_counter() - begun)
    return best | {"MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline) / 1024}


def in_new_process(*arguments: Any) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


def few_frames(clips: dict[str, Path], repeats: int) -> Iterator[str]:
    yield "| clip | frames | time against seeking for each | against decoding through | against the better of the two |"
    yield "|---|---|---|---|---|"
    for name, path in clips.items():
        for count in TARGETS:
            # For a single frame, one in the middle of a group; frame 0 would show nothing.
            targets = [CLIPS[name][0] // 2 - 6] if count == 1 else np.linspace(0, CLIPS[name][0] - 1, count).astype(int)
            # Not worth the wait where it must lose: seeking decodes half a group for each frame.
            seeks = count * CLIPS[name][3] / 2 < 4 * CLIPS[name][0]
            readers = ["clip", "through", *(["seek"] if seeks else [])]
            times = in_new_process(readers, str(path), [int(t) for t in targets], "keep", repeats)
            others = [times.get("seek", np.inf), times["through"]]
            ratios = [times["clip"] / seconds for seconds in (*others, min(others))]
            yield f"| {name} | {count} | {' | '.join(f'{ratio:.2f}' if ratio else '-' for ratio in ratios)} |"


def many_frames(clips: dict[str, Path], repeats: int) -> Iterator[str]:
    yield "| clip | frames | consumer | frames a second against a plain loop | peak memory | of the plain loop |"
    yield "|---|---|---|---|---|---|"
    for label, path in clips.items():
        frames, height = CLIPS[label][:2]
        if height < 1080:
            continue
        for consumer in ("keep", "resized"):
            for count in (256, frames):
                targets = [int(t) for t in np.linspace(0, frames - 1, count)]
                times = in_new_process(["clip", "plain"], str(path), targets, consumer, repeats)
                memory = [in_new_process([name], str(path), targets, consumer, 1)["MB"] for name in ("clip", "plain")]
                ratio = times["plain"] / times["clip"]
                what = {"keep": "none", "resized": "resize to half"}[consumer]
                yield f"| {label} | {count} | {what} | {ratio:.2f} | {memory[0]:.0f} MB | {memory[1]:.0f} MB |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="where to write the tables (default: standard output)")
    parser.add_argument("--clips", type=Path, help="a folder to keep the clips in for the next time")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many is taken")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.clips or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        clips = {name: folder / f"{height}p-{gop}.mp4" for name, (_, height, _, gop) in CLIPS.items()}
        for name, path in clips.items():
            if not path.exists():
                make_clip(path, *CLIPS[name])
        with options.output.open("w") if options.output else sys.stdout as out:
            for line in chain(few_frames(clips, options.repeats), [""], many_frames(clips, options.repeats)):
                print(line, file=out, flush=True)


if __name__ == "__main__":
    main()
