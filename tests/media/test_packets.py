from collections import deque
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mossvl.media.packets import PacketTable, plan_runs


def packet(pts: int | None, dts: int | None = None, key: bool = False, **others: Any) -> Any:
    given = {"duration": 0, "size": 100, "is_discard": False} | others
    return SimpleNamespace(pts=pts, dts=pts if dts is None else dts, is_keyframe=key, **given)


def table(*packets: Any, rate: int | None = 10, reordered: bool = False) -> PacketTable:
    return PacketTable.build(packets, Fraction(1, 100), Fraction(rate) if rate else None, reordered)


def groups(*sizes: int, b_frames: bool = False) -> PacketTable:
    """Closed groups of pictures of these sizes, ten ticks a frame; with B-frames, in the order I P B P B …."""
    packets = []
    for size in sizes:
        first = len(packets)
        order = list(range(size))
        if b_frames:
            order = [0, *(n for pair in zip(range(2, size, 2), range(1, size, 2), strict=False) for n in pair)]
            order += [n for n in range(size) if n not in order]
        packets += [
            packet(10 * (first + shown), 10 * (first + stored), key=stored == 0) for stored, shown in enumerate(order)
        ]
    return table(*packets)


def test_frames_are_numbered_in_presentation_order() -> None:
    built = table(packet(0, key=True), packet(30), packet(10), packet(20))
    assert built.position.tolist() == [0, 2, 3, 1] and built.index.tolist() == [0, 3, 1, 2]


def test_start_and_end_are_the_first_pts_and_the_end_of_the_last_frame() -> None:
    built = table(packet(50, key=True), packet(60), packet(70, duration=25))
    assert (built.start, built.end) == (0.5, 0.95)


def test_a_missing_duration_is_the_gap_before() -> None:
    assert table(packet(0, key=True), packet(10), packet(40)).end == pytest.approx(0.7)


def test_a_single_frame_without_duration_lasts_one_frame_of_the_rate() -> None:
    assert table(packet(0, key=True), rate=20).end == pytest.approx(0.05)


def test_times_start_at_zero() -> None:
    assert table(packet(-20, key=True), packet(-10), packet(15)).times.tolist() == [0, 0.1, 0.35]


def test_hidden_packets_are_no_frames_but_stay_in_the_table() -> None:
    built = table(packet(-10, key=True, is_discard=True), packet(0), packet(10))
    assert built.index.tolist() == [-1, 0, 1] and built.start == 0


def test_nothing_shown_is_an_error() -> None:
    with pytest.raises(ValueError, match="no packet"):
        table(packet(0, is_discard=True))


def test_without_pts_frames_are_in_the_order_of_storing_and_cannot_be_sought() -> None:
    built = table(packet(None, 0, key=True), packet(None, 10), packet(None, 20, key=True))
    assert not built.ordered and built.keyframes.tolist() == [0] and built.times.tolist() == [0, 0.1, 0.2]


def test_without_any_times_the_rate_counts() -> None:
    packets = [SimpleNamespace(**(vars(packet(None)) | {"dts": None})) for _ in range(3)]
    assert table(*packets).times.tolist() == pytest.approx([0, 0.1, 0.2])


def test_ascending_pts_of_a_reordered_stream_are_not_believed() -> None:
    assert not table(packet(0, key=True), packet(10), packet(20), reordered=True).ordered


def test_absurd_times_still_give_a_length_above_zero() -> None:
    built = table(packet(2**61, key=True), packet(2**61 + 1))
    assert built.end > built.start


def test_packets_of_one_pts_cannot_be_told_apart() -> None:
    assert not table(packet(0, key=True), packet(10), packet(10)).unique


def test_a_packet_is_found_by_its_pts_and_size() -> None:
    built = table(packet(0, key=True), packet(30), packet(10, size=7))
    found = [
        built.find(packet(10, size=7)),
        built.find(packet(10, size=6)),
        built.find(packet(11)),
        built.find(packet(None)),
    ]
    assert found == [2, None, None, None]


def test_a_frame_shown_before_its_keyframe_needs_the_keyframe_before() -> None:
    built = table(packet(0, key=True), packet(20, key=True), packet(10), packet(30))
    assert [int(built.keyframes[built.keyframe_before(index)]) for index in range(4)] == [0, 0, 1, 1]


def runs(built: PacketTable, indices: list[int], bridged: int = 0) -> list[tuple[int, int, list[int]]]:
    return [(run.start, run.stop, list(run.wanted)) for run in plan_runs(built, indices, bridged)]


def test_groups_without_wanted_frames_are_left_out() -> None:
    assert runs(groups(10, 10, 10), [2, 25]) == [(0, 2, [2]), (20, 25, [25])]


def test_frames_of_one_group_are_one_run() -> None:
    assert runs(groups(10, 10), [12, 15, 19]) == [(10, 19, [12, 15, 19])]


def test_a_short_way_to_the_next_keyframe_is_gone_through() -> None:
    assert runs(groups(10, 10), [7, 11], bridged=2) == [(0, 11, [7, 11])]


def test_a_longer_way_to_the_next_keyframe_is_left_out() -> None:
    assert runs(groups(10, 10), [6, 11], bridged=2) == [(0, 6, [6]), (10, 11, [11])]


def test_unordered_streams_are_read_from_the_beginning() -> None:
    assert runs(table(*(packet(None, 10 * n, key=True) for n in range(5))), [3]) == [(0, 4, [3])]


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.booleans(),
    st.integers(0, 6),
    st.sets(st.integers(0, 95), min_size=1),
)
def test_every_run_holds_what_its_frames_need(sizes: list[int], b_frames: bool, bridged: int, wanted: set[int]) -> None:
    built = groups(*sizes, b_frames=b_frames)
    indices = sorted({index % len(built.index) for index in wanted})
    planned = plan_runs(built, indices, bridged)
    assert [index for run in planned for index in run.wanted] == indices
    for run in planned:
        assert run.start in built.keyframes
        assert all(run.start <= built.position[index] <= run.stop for index in run.wanted)
    assert all(one.stop + bridged < following.start for one, following in pairwise(planned))


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20))
@example([2**62, -(2**62)])
def test_any_timestamps_give_a_whole_table(pts: list[int]) -> None:
    built = table(*map(packet, pts))
    assert sorted(built.position.tolist()) == list(range(len(pts)))
    assert (np.diff(built.times) >= 0).all() and built.end > built.start
    assert isinstance(plan_runs(built, [0], 4)[0].wanted, deque)
