"""Files whose time stamps start again, or leap."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.media.packets import PacketTable
from mossvl.media.video import open_clip

from .clips import plain_decode, write_clip

FLV_HEADER = 13
HOUR = 3600
RED, BLUE = (220, 0, 0), (0, 0, 220)


def coloured(path: Path, colour: tuple[int, int, int], frames: int = 100, start: int = 0, **options: Any) -> bytes:
    """The bytes of a clip of one colour, of 25 frames a second, that begins at tick `start`."""

    def drawn(number: int, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), colour, np.uint8)

    pts = range(start, start + frames)
    return write_clip(path, frames, drawn=drawn, gop=12, b_frames=2, rate=25, pts=pts, **options).read_bytes()


def colours(frames: Iterator[np.ndarray]) -> str:
    """A letter for each frame: r or b."""
    return "".join("r" if pixels[20, 20, 0] > pixels[20, 20, 2] else "b" for pixels in frames)


@pytest.fixture
def join(tmp_path: Path) -> Any:
    def join(name: str, *starts: int, header: int = 0, **options: Any) -> Path:
        """Four seconds of red and four of blue, one file after the other, that begin at these ticks."""
        red, blue = (
            coloured(tmp_path / f"{start}-{name}", colour, start=start, **options)
            for start, colour in zip(starts, (RED, BLUE), strict=True)
        )
        path = tmp_path / f"joined-{name}"
        path.write_bytes(red + blue[header:])
        return path

    return join


KINDS = {
    "h264.ts": {},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "h264.mkv": {},
    "h264.flv": {"header": FLV_HEADER},  # as a recorder that goes on with a file
}


@pytest.mark.parametrize("name", KINDS)
def test_joined_files_are_shown_one_after_the_other(join: Any, name: str) -> None:
    path = join(name, 0, 0, **KINDS[name])
    with open_clip(path) as clip:
        assert (clip.num_frames, clip.even) == (200, True)
        assert clip.duration == pytest.approx(8)
        assert [clip.index_at(time) for time in (0, 3.96, 4, 7.96)] == [0, 99, 100, 199]
        frames = plain_decode(path)
        for indices in ([*range(200)], [98, 99, 100, 101, 150], [199], [0]):
            assert all(np.array_equal(read, frames[i]) for i, read in zip(indices, clip.read(indices), strict=True))
        assert colours(clip.read(range(200))) == "r" * 100 + "b" * 100


def test_joined_dvd_files_are_shown_one_after_the_other(join: Any) -> None:
    with open_clip(join("mpeg2.vob", 0, 0, codec="mpeg2video", format="vob")) as clip:
        # FFmpeg guesses the stamps of packets that have none, and is wrong by a frame now and then.
        assert clip.num_frames == 200 and clip.duration == pytest.approx(8, abs=0.1)
        assert colours(clip.read(range(200))) == "r" * 100 + "b" * 100


def test_a_part_that_starts_before_the_one_it_follows_is_no_day_later(join: Any) -> None:
    """FFmpeg takes a fall in an MPEG stream by more than a minute for one of 33 bits that start again."""
    with open_clip(join("h264.ts", 2500, 0)) as clip:
        assert (clip.start, clip.duration) == pytest.approx((100, 8))
        assert colours(clip.read([0, 99, 100, 199])) == "rrbb"


def test_thirty_three_bits_that_start_again_are_no_new_part(tmp_path: Path) -> None:
    start = 25 * (2**33 // 90_000 - 2)
    path = tmp_path / "wrapped.ts"
    coloured(path, RED, start=start)
    with open_clip(path) as clip:
        assert (clip.num_frames, clip.even) == (100, True)
        assert clip.duration == pytest.approx(4)


def test_a_gap_is_true_and_seeking_goes_by_the_files_own_times(join: Any) -> None:
    with open_clip(join("h264.ts", 0, 100 + 20 * 25)) as clip:
        assert clip.duration == pytest.approx(28, abs=0.1)
        assert clip.index_at(23.9) == 99
        assert colours(clip.read([0, 99, 100, 199])) == "rrbb"


# --- tables -------------------------------------------------------------------------------------------------------


def table(*stamps: tuple[int | None, int | None], keyframes: Any = (), durations: int = 10) -> PacketTable:
    """Of packets with these pts and dts, in hundredths of a second; ten frames a second."""
    packets = [
        SimpleNamespace(
            pts=pts, dts=dts, duration=durations, size=100, is_keyframe=place in {0, *keyframes}, is_discard=False
        )
        for place, (pts, dts) in enumerate(stamps)
    ]
    return PacketTable.build(packets, Fraction(1, 100), Fraction(10), reordered=False)


def run(start: int, count: int = 5) -> list[tuple[int, int]]:
    return [(stamp, stamp) for stamp in range(start, start + 10 * count, 10)]


def even(built: PacketTable, frames: int) -> bool:
    return built.times.tolist() == pytest.approx([0.1 * frame for frame in range(frames)])


@pytest.mark.parametrize("fall", [61, 1000, 10**9])
def test_a_keyframe_that_is_stamped_earlier_begins_a_part(fall: int) -> None:
    built = table(*run(0, 10), *run(100 - fall, 10), keyframes=[10])
    assert even(built, 20) and built.end - built.start == pytest.approx(2)
    assert built.position.tolist() == list(range(20))
    assert not built.unique and built.ordered


def test_small_steps_back_begin_none() -> None:
    """As FFmpeg guesses decoding times where the file has none."""
    built = table(*((pts, pts) for pts in (0, 30, 10, 20, 60, 40, 50, 90, 70, 80)), keyframes=[4])
    assert built.position.tolist() == [0, 2, 3, 1, 5, 6, 4, 8, 9, 7] and built.unique


def test_a_frame_other_than_a_keyframe_begins_a_part_where_codecs_do_not_reorder_so_far() -> None:
    assert table(*run(0, 30), *run(140, 10)).times[-1] == pytest.approx(2.9)
    assert even(table(*run(0, 30), *run(120, 10)), 40)


def test_b_frames_of_a_part_stay_in_order() -> None:
    group = [(10, 0), (40, 10), (20, 20), (30, 30)]
    built = table(*((pts + 500, dts + 500) for pts, dts in group), *group, keyframes=[4])
    assert built.position.tolist() == [0, 2, 3, 1, 4, 6, 7, 5]
    assert even(built, 8) and built.start == 5.1


@pytest.mark.parametrize("gap", [20, 1800, HOUR - 1])
def test_gaps_of_up_to_an_hour_are_true(gap: int) -> None:
    built = table(*run(0), *run(100 * gap))
    assert built.times[5] == gap and built.unique


@pytest.mark.parametrize("leap", [2 * HOUR, 50 * 365 * 24 * HOUR])
def test_what_is_stamped_hours_or_years_ahead_follows_at_once(leap: int) -> None:
    assert even(table(*run(0), *run(100 * leap)), 10)
    assert even(table(*run(0), *run(100 * leap, 1), *run(60)), 11)


def test_a_leap_is_not_the_length_of_the_frame_before_it() -> None:
    packets = [(*one, 10) for one in run(0, 4)] + [(40, 40, 900 * HOUR)] + [(*one, 10) for one in run(900 * HOUR + 40)]
    built = PacketTable.build(
        [
            SimpleNamespace(pts=pts, dts=dts, duration=duration, size=9, is_keyframe=True, is_discard=False)
            for pts, dts, duration in packets
        ],
        Fraction(1, 100),
        Fraction(10),
        reordered=False,
    )
    assert even(built, 10)


def test_frames_that_all_last_for_hours_are_believed() -> None:
    built = table(*((100 * HOUR * hour, 100 * HOUR * hour) for hour in (0, 2, 4, 7)))
    assert built.times.tolist() == [0, 2 * HOUR, 4 * HOUR, 7 * HOUR]


def test_a_time_of_showing_far_from_that_of_decoding_is_not_believed() -> None:
    stamps = run(0, 10)
    stamps[4] = (10**9, 40)
    assert even(table(*stamps), 10)


def test_without_decoding_times_those_of_showing_tell_parts() -> None:
    stamps = [(pts, None) for pts in (900_000, 900_030, 900_010, 900_020, 0, 30, 10, 20)]
    built = table(*stamps, keyframes=[4])
    assert built.position.tolist() == [0, 2, 3, 1, 4, 6, 7, 5] and even(built, 8)


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(-(10**6), 10**12)), min_size=1, max_size=6))
def test_any_parts_are_shown_one_after_the_other(parts: list[tuple[int, int]]) -> None:
    stamps, begins = [], []
    for count, start in parts:
        last = stamps[-1][0] if stamps else start
        if -50 <= start - last <= 100 * HOUR + 10:
            start = last - 60
        begins.append(len(stamps))
        stamps += run(start, count)
    built = table(*stamps, keyframes=begins)
    assert built.position.tolist() == list(range(len(stamps)))
    assert even(built, len(stamps))
