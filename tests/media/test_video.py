"""Every frame is that of a plain decode, at the time and in the position that its file says."""

import json
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mossvl.errors import InputError
from mossvl.media.video import Clip, open_clip

from .clips import KINDS, Made, picture, plain_decode, write_clip, write_silence


def assert_reads(clip: Clip, frames: list[np.ndarray], indices: list[int]) -> None:
    read = list(clip.read(indices))
    assert len(read) == len(indices)
    for index, pixels in zip(indices, read, strict=True):
        assert np.array_equal(pixels, frames[index]), f"frame {index} of {indices} is not that of a full decode"


@pytest.mark.parametrize("name", KINDS)
def test_all_frames_equal_a_full_decode(made: Callable[[str], Made], name: str) -> None:
    source = made(name)
    with open_clip(source.path) as clip:
        assert clip.num_frames == len(source.frames) == KINDS[name]["frames"]
        assert (clip.height, clip.width, 3) == source.frames[0].shape
        assert_reads(clip, source.frames, list(range(clip.num_frames)))


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_frames_equal_a_full_decode(made: Callable[[str], Made], name: str, data: st.DataObject) -> None:
    source = made(name)
    indices = data.draw(st.lists(st.integers(0, len(source.frames) - 1), min_size=1, max_size=8).map(sorted))
    with open_clip(source.path) as clip:
        assert_reads(clip, source.frames, indices)


@pytest.mark.parametrize("num_threads", [1, 2, 16])
def test_the_number_of_threads_changes_nothing(made: Callable[[str], Made], num_threads: int) -> None:
    source = made("b-frames.mp4")
    with open_clip(source.path, num_threads=num_threads) as clip:
        assert_reads(clip, source.frames, [3, 4, 17, 18, 39])


def golden_clips() -> list[Any]:
    cases = json.loads((Path(__file__).parent.parent / "golden" / "cases.json").read_text())
    expected = {}
    for case in cases.values():
        paths = json.dumps(case["query"])
        for name in ("clip_10fps_6s.mp4", "clip_2997fps_audio.mp4", "clip_portrait.webm", "clip_40s.mp4"):
            if name in paths and len(case.get("videos", [])) == 1:
                expected[name] = case["videos"][0]
    return [pytest.param(name, video, id=name) for name, video in expected.items()]


@pytest.mark.parametrize(("name", "expected"), golden_clips())
def test_golden_clips_have_the_references_length_and_size(golden: Path, name: str, expected: dict[str, Any]) -> None:
    with open_clip(golden / "media" / name) as clip:
        assert clip.average_fps == pytest.approx(expected["fps"], rel=1e-12)
        assert clip.duration == pytest.approx(expected["duration"], rel=1e-12)
        assert (clip.height, clip.width) == (expected["height"], expected["width"])


def test_start_is_the_first_timestamp(made: Callable[[str], Made]) -> None:
    with open_clip(made("late-start.mp4").path) as clip:
        assert (clip.start, clip.end) == pytest.approx((10, 12))


def test_the_frame_shown_at_a_time_is_the_last_one_before(made: Callable[[str], Made]) -> None:
    with open_clip(made("variable-rate.mp4").path) as clip:
        times = [0, 2 / 30, 4.9 / 30, 5 / 30, 59 / 30, 60 / 30, 93 / 30]
        assert [clip.index_at(time) for time in times] == [0, 2, 2, 3, 10, 11, 15]


def test_times_outside_the_clip_give_its_ends(made: Callable[[str], Made]) -> None:
    with open_clip(made("late-start.mp4").path) as clip:
        assert [clip.index_at(-5), clip.index_at(1e9)] == [0, 19]


@pytest.mark.parametrize("name", ["b-frames.mkv", "variable-rate.mkv", "b-frames.ts", "vp9.webm"])
def test_every_frame_is_found_by_its_own_time(made: Callable[[str], Made], name: str) -> None:
    with av.open(str(made(name).path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    with open_clip(made(name).path) as clip:
        assert [clip.index_at(time - times[0]) for time in times] == list(range(clip.num_frames))


def test_nan_is_not_a_time(made: Callable[[str], Made]) -> None:
    with open_clip(made("one-frame.mp4").path) as clip, pytest.raises(InputError, match="NaN"):
        clip.index_at(float("nan"))


@pytest.mark.parametrize("indices", [[-1], [40], [3, 2]])
def test_bad_indices_are_refused_before_anything_is_read(made: Callable[[str], Made], indices: list[int]) -> None:
    with open_clip(made("long-gop.mp4").path) as clip, pytest.raises(InputError):
        clip.read(indices)


def test_frames_are_arrays_of_their_own(made: Callable[[str], Made]) -> None:
    with open_clip(made("long-gop.mp4").path) as clip:
        first, second = clip.read([5, 5])
    assert first.dtype == np.uint8 and first.flags.c_contiguous and first.flags.writeable
    assert not np.shares_memory(first, second)


def test_no_frames_asked_for_gives_none(made: Callable[[str], Made]) -> None:
    with open_clip(made("long-gop.mp4").path) as clip:
        assert list(clip.read([])) == []


def test_frames_do_not_pile_up(made: Callable[[str], Made]) -> None:
    alive: list[Any] = []
    with open_clip(made("long-gop.mp4").path) as clip:
        for pixels in clip.read(range(40)):
            alive = [reference for reference in [*alive, weakref.ref(pixels)] if reference() is not None]
            assert len(alive) <= 2


def test_two_readings_of_one_clip_do_not_disturb_each_other(made: Callable[[str], Made]) -> None:
    source = made("short-gop.mp4")
    with open_clip(source.path) as clip:
        pairs = zip(clip.read(range(40)), clip.read(range(0, 40, 1)), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied_to_pixels_and_size(tmp_path: Path, rotation: int) -> None:
    path = write_clip(tmp_path / "turned.mp4", 3, rotation=rotation)
    stored = plain_decode(path)[0]
    expected = np.rot90(stored, rotation // 90)  # Both count anticlockwise.
    with open_clip(path) as clip:
        pixels = next(clip.read([0]))
        assert np.array_equal(pixels, expected) and pixels.flags.c_contiguous
        assert (clip.height, clip.width) == expected.shape[:2]


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),  # As phones write it when held upright.
        ((-1, 0, 0, 1), np.fliplr),
        ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
    ],
)
def test_the_matrix_of_an_mp4_turns_and_mirrors(
    tmp_path: Path, matrix: tuple[int, ...], turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = write_clip(tmp_path / "matrix.mp4", 3)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[place + offset : place + offset + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    with open_clip(path) as clip:
        assert np.array_equal(next(clip.read([1])), turn(plain_decode(path)[1]))


def test_frames_that_an_edit_list_hides_do_not_count(tmp_path: Path, golden: Path) -> None:
    data = bytearray((golden / "media" / "clip_10fps_6s.mp4").read_bytes())
    place = data.index(b"elst") + 12
    data[place : place + 8] = (2000).to_bytes(4, "big") + (2048 + 15 * 1024).to_bytes(4, "big")  # Two seconds from 1.5.
    path = tmp_path / "edited.mp4"
    path.write_bytes(data)
    frames = plain_decode(golden / "media" / "clip_10fps_6s.mp4")
    with open_clip(path) as clip:
        assert (clip.num_frames, clip.start, clip.duration) == (20, 0, 2)
        assert_reads(clip, frames[15:35], [0, 7, 8, 19])


@pytest.mark.parametrize("begins", [0, 10, 25])
def test_a_player_shows_the_first_frame_when_the_file_says(tmp_path: Path, begins: int) -> None:
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=10)
        video.width, video.height, video.codec_context.time_base = 64, 48, Fraction(1, 10)
        write_silence(out, out.add_stream("aac", rate=44100))
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(picture(number, 48, 64), format="rgb24")
            frame.pts, frame.time_base = begins + number, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with open_clip(path) as clip:
        assert clip.player_start == pytest.approx(begins / 10)
        assert clip.shown_times([0, 9]) == pytest.approx((0, 0.9))


def test_a_player_begins_at_zero_where_a_file_begins_before_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "early.ts", 20, pts=range(954_430, 954_450))  # Across the end of 33 bits.
    with open_clip(path) as clip:
        assert clip.start < -0.5 and clip.player_start == pytest.approx(0, abs=1e-6)


def test_the_shape_of_pixels_is_not_corrected(tmp_path: Path) -> None:
    """As in the published processor; docs/media.md says so."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        frame = av.VideoFrame.from_ndarray(picture(0, 48, 64), format="rgb24").reformat(format="yuv420p")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    with open_clip(path) as clip:
        assert (clip.height, clip.width) == (48, 64)
