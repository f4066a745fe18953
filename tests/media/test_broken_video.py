"""Damage: what can be decoded is used, and each index gets a frame."""

from pathlib import Path

import av
import numpy as np
import pytest

from mossvl.errors import MediaError
from mossvl.media.video import open_clip

from .clips import plain_decode, write_clip

FAST_START = {"movflags": "faststart"}


def damage_frames(path: Path, numbers: list[int]) -> None:
    """Overwrite the packets of these frames (numbered as stored) of an MP4 with zeros."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        place, size = places[number]
        data[place : place + size] = bytes(size)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.ts", "cut.avi"])
def test_of_a_truncated_file_what_is_there_is_read(tmp_path: Path, name: str) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write_clip(tmp_path / name, 60, gop=10, codec=codec, container=FAST_START if name.endswith("mp4") else None)
    whole = plain_decode(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with open_clip(path) as clip:
        assert 10 < clip.num_frames < 60
        frames = list(clip.read(range(clip.num_frames)))
    # The very last packet may be cut in two.
    assert all(np.array_equal(frame, whole[number]) for number, frame in enumerate(frames[:-1]))


def test_a_truncated_webm_is_read(tmp_path: Path, golden: Path) -> None:
    data = (golden / "media" / "clip_portrait.webm").read_bytes()
    path = tmp_path / "cut.webm"
    path.write_bytes(data[: len(data) // 2])
    with open_clip(path) as clip:
        last = clip.num_frames - 1
        assert len(list(clip.read([0, last, last]))) == 3


def test_for_a_broken_frame_the_one_before_is_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, codec="mjpeg", pix_fmt="yuvj420p")
    whole = plain_decode(path)
    damage_frames(path, [7, 8])
    with open_clip(path) as clip:
        frames = list(clip.read([6, 7, 8, 9]))
    expected = [whole[6], whole[6], whole[6], whole[9]]
    assert all(np.array_equal(one, other) for one, other in zip(frames, expected, strict=True))


def test_a_broken_frame_asked_for_alone_is_replaced_too(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, codec="mjpeg", pix_fmt="yuvj420p")
    whole = plain_decode(path)
    damage_frames(path, list(range(3, 12)))
    with open_clip(path) as clip:
        assert np.array_equal(next(clip.read([11])), whole[2])


def test_a_broken_tail_repeats_the_last_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 40, gop=5, codec="libvpx-vp9", options={"deadline": "realtime"})
    whole = plain_decode(path)
    damage_frames(path, list(range(22, 40)))
    with open_clip(path) as clip:
        assert clip.num_frames == 40
        frames = list(clip.read([10, 25, 30, 39]))
    expected = [whole[10], whole[21], whole[21], whole[21]]
    assert all(np.array_equal(one, other) for one, other in zip(frames, expected, strict=True))


def test_a_broken_beginning_shows_the_first_frame_there_is(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, codec="mjpeg", pix_fmt="yuvj420p")
    whole = plain_decode(path)
    damage_frames(path, [0, 1, 2])
    with open_clip(path) as clip:
        frames = list(clip.read([0, 2, 3, 4]))
    expected = [whole[3], whole[3], whole[3], whole[4]]
    assert all(np.array_equal(one, other) for one, other in zip(frames, expected, strict=True))


def test_after_a_broken_keyframe_the_group_before_stands_in(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, gop=10, codec="libvpx-vp9", options={"deadline": "realtime"})
    whole = plain_decode(path)
    damage_frames(path, [10])
    with open_clip(path) as clip:
        frames = list(clip.read([9, 15, 25]))
    assert np.array_equal(frames[0], whole[9]) and np.array_equal(frames[2], whole[25])
    assert len(frames) == 3


def test_a_file_in_which_nothing_decodes_is_a_media_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 10, codec="mjpeg", pix_fmt="yuvj420p")
    damage_frames(path, list(range(10)))
    with pytest.raises(MediaError, match=r"clip\.mp4: no frame can be decoded"), open_clip(path) as clip:
        next(clip.read([4]))


def test_a_file_without_its_index_is_a_media_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        open_clip(path)


def test_a_stream_that_begins_within_a_group_is_read_from_its_first_keyframe(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", 40, gop=10, b_frames=2, options={"preset": "veryfast"})
    whole = plain_decode(path)
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 3 // 188 * 188 :])
    with open_clip(path) as clip:
        frames = list(clip.read(range(clip.num_frames)))
        count = len(frames)
    assert 20 < count < 40
    assert all(np.array_equal(one, other) for one, other in zip(frames[10:], whole[-count + 10 :], strict=True))
