"""When it is looked at videos and their segments, and what is taken of them; see `test_golden` for even frames."""

import math
from fractions import Fraction

import numpy as np
import pytest

from mossvl.errors import MediaError
from mossvl.processing.sampling import check_segments, clip_times, each_once, segment_length, segment_times


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([0, 6], (0.0, 6.0)),
        ((0.25, 0.5), (0.25, 0.5)),
        ([5, 100], (5.0, 6.0)),
        ([5.999, 6.001], (5.999, 6.0)),
        ([0], (0.0,)),
        ((6.0,), (6.0,)),
        ([Fraction(1, 2), np.float32(1.5)], (0.5, 1.5)),
    ],
)
def test_a_segment_is_a_time_or_two_cut_to_the_video(given, taken):
    (found,) = check_segments([given], 6.0, "clip")
    assert found == taken and {type(time) for time in found} == {float}


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        *[(bad, "must be .*, in seconds") for bad in (3, None, "12", {0: 1, 1: 2}, [], [0, 1, 2], ["0", 1], [0, None])],
        *[([bad], "not negative") for bad in (True, False, -0.1, math.nan, math.inf, 1j)],
        *[([0, bad], "not negative") for bad in (True, -1, math.nan, math.inf, 10**400)],
        *[(bad, "must end after it starts") for bad in ([3, 2], [2, 2], [0, 0], [9, 8])],
        *[(bad, "outside the video, which lasts 6.000 s") for bad in ([6, 7], [7, 9], [6.001], [math.nextafter(6, 7)])],
    ],
)
def test_what_is_no_part_of_the_video_is_refused_by_its_name(segment, words):
    with pytest.raises(MediaError, match=f"clip: segment .*{words}"):
        check_segments([[1, 2], segment], 6.0, "clip")


def test_no_segments_are_refused():
    with pytest.raises(MediaError, match="clip: `segments` is empty"):
        check_segments([], 6.0, "clip")


def test_an_instant_has_no_length():
    assert [segment_length(segment) for segment in ((2.0,), (2.0, 2.5), (0.0, 9.0))] == [0.0, 0.5, 9.0]


@pytest.mark.parametrize(
    ("segments", "fps", "least", "most", "times"),
    [
        ([(0, 1.5), (2,), (3, 5)], 2, 1, 99, [[0, 0.5, 1], [2], [3, 3.5, 4, 4.5]]),
        ([(1, 2), (2, 5)], 10, 1, 8, [[1, 1.5], [2, 2.5, 3, 3.5, 4, 4.5]]),  # a quarter and three of the most
        ([(1, 2), (2, 5)], 0.1, 8, 99, [[1, 1.5], [2, 2.5, 3, 3.5, 4, 4.5]]),  # and of the least
        ([(0, 0.5), (1, 10.5)], 0.1, 1, 99, [[0], [1]]),  # one at least
        ([(0, 0.5), (1, 10.5)], 4, 1, 5, [[0], [1, 3.375, 5.75, 8.125]]),
        ([(0, 0.1)], 30, 1, 99, [[0, 0.1 / 3, 0.2 / 3]]),  # 0.1 · 30 is a little more than 3
        ([(4,), (5,)], 1, 9, 9, [[4], [5]]),
    ],
)
def test_times_of_a_segment_are_even_and_as_many_as_its_part_of_the_bounds(segments, fps, least, most, times):
    assert segment_times(segments, fps, least, most) == [pytest.approx(one) for one in times]


@pytest.mark.parametrize(
    ("last", "duration", "count", "times"),
    [
        (9.0, 10.0, 4, [0, 3, 6, 9]),  # up to the last frame
        (4.0, 10.0, 4, [0, 2.5, 5, 7.5]),  # which is shown for long
        (7.5, 10.0, 4, [0, 2.5, 5, 7.5]),
        (9.0, 10.0, 1, [0]),
    ],
)
def test_a_clip_is_looked_at_evenly_to_its_last_frame_or_as_far_apart_as_it_lasts(last, duration, count, times):
    assert clip_times(last, duration, count) == times


@pytest.mark.parametrize(
    ("shown", "least", "taken"),
    [
        ([2, 5, 9], 1, [2, 5, 9]),
        ([2, 2, 5, 9, 9], 3, [2, 5, 9]),
        ([2, 2, 5, 9, 9], 4, [2, 3, 5, 9]),  # the first of those between
        ([2, 2, 5, 9, 9], 5, [2, 3, 5, 8, 9]),  # and the last
        ([2, 2, 5, 9, 9], 99, [2, 3, 5, 8, 9]),  # no more than were asked for
        ([2, 2, 2, 5, 5, 9, 9], 6, [2, 3, 5, 6, 8, 9]),
        ([2, 2, 2, 4], 4, [2, 3, 4]),  # there is one between
        ([3, 3, 4, 4], 4, [3, 4]),
        ([7, 7, 7], 3, [7]),
    ],
)
def test_a_frame_is_taken_once_and_others_between_where_too_few_are_left(shown, least, taken):
    assert each_once(shown, least) == taken
