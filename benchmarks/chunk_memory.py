"""How much memory the processor takes to hand over 256 frames of 1920 × 1080, by frames handed over at a time."""

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from decode import make_clip

import mossvl
from mossvl.media.limits import MediaLimits
from mossvl.processing.tensors import chunks


def peak_megabytes() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(clip: str, frames: int) -> None:
    processor = mossvl.MossVLVideoProcessor()
    before = peak_megabytes()
    with ExitStack() as stack:
        plans = processor.plan([clip], mossvl.MediaOptions(video_fps=25), MediaLimits(), stack)
        seen = sum(int(grid_thw[:, 0].sum()) for _, grid_thw in chunks(plans, processor, frames))
    print(f"{seen} frames, {frames} at a time: {peak_megabytes() - before:.0f} MB above the imports", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            make_clip(clip, frames=256, height=1080, width=1920, gop=50)
            for frames in (1, 8, 64):
                subprocess.run([sys.executable, __file__, str(clip), str(frames)], check=True)
