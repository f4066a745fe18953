import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from mossvl.errors import MediaError
from mossvl.media.limits import MediaLimits
from mossvl.media.video import is_frame_list, open_clip

from .clips import picture

PICTURES = [picture(number, 20, 30) for number in range(5)]


def write_webp(path: Path, durations: list[int]) -> Path:
    frames = [pillow.fromarray(pixels) for pixels in PICTURES[: len(durations)]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, lossless=True)
    return path


def test_pairs_of_seconds_and_image_are_a_clip() -> None:
    with open_clip([(0.5, PICTURES[0]), (1.5, PICTURES[1]), (2.0, PICTURES[2])]) as clip:
        assert (clip.num_frames, clip.start, clip.end, clip.height, clip.width) == (3, 0.5, 2.5, 20, 30)


def test_dicts_of_timestamp_and_image_are_a_clip() -> None:
    source = [{"timestamp": number, "image": pixels} for number, pixels in enumerate(PICTURES)]
    with open_clip(source) as clip:
        assert clip.num_frames == 5 and clip.average_fps == 1


def test_a_single_frame_lasts_a_second() -> None:
    assert open_clip([(3, PICTURES[0])]).duration == 1


def test_frames_may_be_anything_that_is_an_image(tmp_path: Path) -> None:
    pillow.fromarray(PICTURES[1]).save(tmp_path / "one.png")
    encoded = io.BytesIO()
    pillow.fromarray(PICTURES[3]).save(encoded, "PNG")
    images = [PICTURES[0], tmp_path / "one.png", torch.from_numpy(PICTURES[2]), encoded.getvalue()]
    with open_clip(list(enumerate(images))) as clip:
        frames = list(clip.read([0, 1, 1, 2, 3]))
    assert all(np.array_equal(one, PICTURES[number]) for one, number in zip(frames, [0, 1, 1, 2, 3], strict=True))


def test_the_frame_of_a_time_is_counted_from_the_first_timestamp() -> None:
    clip = open_clip([(10, PICTURES[0]), (11, PICTURES[1]), (15, PICTURES[2])])
    assert [clip.index_at(seconds) for seconds in (0, 0.9, 1, 4.9, 5)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param([], id="empty"),
        pytest.param([PICTURES[0]], id="no timestamps"),
        pytest.param(["a.png", "b.png"], id="paths alone"),
        pytest.param([(0, PICTURES[0]), (0, PICTURES[1])], id="twice the same time"),
        pytest.param([(1, PICTURES[0]), (0, PICTURES[1])], id="descending"),
        pytest.param([(-1, PICTURES[0])], id="negative"),
        pytest.param([(float("nan"), PICTURES[0])], id="NaN"),
        pytest.param([(1e17, PICTURES[0])], id="too late to tell frames apart"),
        pytest.param([(float("inf"), PICTURES[0])], id="infinite"),
        pytest.param([(True, PICTURES[0])], id="a truth value for a time"),
        pytest.param([{"timestamp": 0, "picture": PICTURES[0]}], id="another key"),
        pytest.param([(0, b"no image")], id="no image"),
    ],
)
def test_a_malformed_list_is_a_media_error(source: list[Any]) -> None:
    with pytest.raises(MediaError):
        open_clip(source)


def test_frames_of_different_sizes_are_a_media_error_that_counts_them() -> None:
    clip = open_clip([(0, PICTURES[0]), (1, PICTURES[1][:10])])
    with pytest.raises(MediaError, match="frame 1"):
        list(clip.read([0, 1]))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ([(0, "a.png")], True),
        (((0.0, "a.png"), {"timestamp": 1, "image": "b.png"}), True),
        (["a.mp4", "b.mp4"], False),
        ([["a.mp4", "b.mp4"]], False),
        ([], False),
        ("a.mp4", False),
    ],
)
def test_frame_lists_are_told_from_lists_of_videos(source: Any, expected: bool) -> None:
    assert is_frame_list(source) is expected


def test_an_animated_webp_is_a_clip_with_its_own_times(tmp_path: Path) -> None:
    with open_clip(write_webp(tmp_path / "moving.webp", [100, 300, 50])) as clip:
        assert (clip.num_frames, clip.start, clip.end) == (3, 0, 0.45)
        assert [clip.index_at(seconds) for seconds in (0, 0.1, 0.39, 0.4)] == [0, 1, 1, 2]


def test_frames_of_a_webp_are_as_written(tmp_path: Path) -> None:
    with open_clip(write_webp(tmp_path / "moving.webp", [100] * 5)) as clip:
        frames = list(clip.read([0, 3, 4]))
    assert all(np.array_equal(one, PICTURES[number]) for one, number in zip(frames, [0, 3, 4], strict=True))


def test_webp_is_recognised_by_content(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "moving.webp", [100] * 3).rename(tmp_path / "moving.mp4")
    with open_clip(path) as clip:
        assert clip.num_frames == 3


def test_a_still_webp_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    pillow.fromarray(PICTURES[0]).save(tmp_path / "still.webp", lossless=True)
    with open_clip(tmp_path / "still.webp") as clip:
        assert np.array_equal(next(clip.read([0])), PICTURES[0]) and clip.num_frames == 1


def test_a_webp_over_the_pixel_limit_is_refused(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "moving.webp", [100] * 3)
    with pytest.raises(MediaError, match="30 x 20"):
        open_clip(path, MediaLimits(image_pixels=100))


def test_a_truncated_webp_is_a_media_error(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "moving.webp", [100] * 3)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MediaError, match=r"moving\.webp"):
        open_clip(path)
