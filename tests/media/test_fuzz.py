"""Damaged copies of the golden media: a result or a MediaError, soon, and nothing left open."""

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mossvl.errors import MediaError
from mossvl.media.image import load_image
from mossvl.media.limits import MediaLimits
from mossvl.media.video import open_clip

COUNT = int(os.environ.get("MOSSVL_FUZZ", "150"))
PARTS = 4  # So that workers share the inputs.
LIMITS = MediaLimits(image_pixels=10_000_000, timeout=30)
SECONDS = 20  # For one input, on a machine that may be busy.


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut off, bits flipped, a stretch of zeros, or nonsense in the header."""
    harmed = bytearray(data)
    if rng.random() < 0.4:
        del harmed[rng.randrange(1, len(harmed)) :]
    kind = rng.choice(["bits", "zeros", "header", "none"])
    if kind == "bits":
        for _ in range(rng.choice([1, 3, 20, 200])):
            harmed[rng.randrange(len(harmed))] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        place = rng.randrange(len(harmed))
        stop = min(place + rng.choice([10, 100, 5000]), len(harmed))
        harmed[place:stop] = bytes(stop - place)
    elif kind == "header":
        for _ in range(rng.choice([1, 3, 10])):
            harmed[rng.randrange(min(600, len(harmed)))] = rng.randrange(256)
    return bytes(harmed)


def read_as_image(path: Path, _: random.Random) -> None:
    assert load_image(path, LIMITS).shape[0] == 3


def read_as_clip(path: Path, rng: random.Random) -> None:
    with open_clip(path, LIMITS) as clip:
        assert clip.duration > 0 and clip.average_fps > 0 and clip.height * clip.width > 0
        indices = sorted(rng.choices(range(clip.num_frames), k=4))
        assert len(list(clip.read([*indices, clip.num_frames - 1]))) == 5


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_media_do_no_harm(
    part: int, tmp_path: Path, golden: Path, open_files: Callable[[Path], list[str]]
) -> None:
    sources = {path.name: path.read_bytes() for path in sorted((golden / "media").iterdir())}
    for number in range(part, COUNT, PARTS):
        rng = random.Random(number)
        name = rng.choice(list(sources))
        path = tmp_path / name
        path.write_bytes(damaged(sources[name], rng))
        for read in (read_as_image, read_as_clip):
            begun = time.monotonic()
            with contextlib.suppress(MediaError):
                read(path, rng)
            assert time.monotonic() - begun < SECONDS, f"input {number} took too long"
            assert open_files(tmp_path) == [], f"input {number} left files open"
