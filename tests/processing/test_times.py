"""Which frames of a video are seen where they are not evenly spaced in time, and which times are told of them."""

from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import pytest
from golden_cases import MEDIA
from hypothesis import given
from hypothesis import strategies as st
from media.clips import write_clip
from PIL import Image

from mossvl.errors import OptionError
from mossvl.media.limits import MediaLimits
from mossvl.media.video import open_clip
from mossvl.options import MediaOptions
from mossvl.processing import sampling
from mossvl.processing.plan import Medium
from mossvl.processing.video_processor import MossVLVideoProcessor

PICTURE = np.zeros((32, 32, 3), np.uint8)
FAST_THEN_SLOW = [*range(125), *range(125, 500, 25)]
"""Of 25 ticks a second: 25 frames a second for five seconds, then one for fifteen."""


def plan(video, **options):
    """The plans of a video's units."""
    with ExitStack() as stack:
        return MossVLVideoProcessor().plan([video], MediaOptions(**options), MediaLimits(), stack)


def told(video, **options):
    return [unit.timestamps for unit in plan(video, **options)]


def listed(times):
    return [(time, PICTURE) for time in times]


@pytest.fixture
def uneven(tmp_path):
    """Twenty seconds, of which the first five have 125 of the 140 frames."""
    return str(write_clip(tmp_path / "uneven.mp4", 140, pts=FAST_THEN_SLOW, rate=25))


def test_uneven_frames_are_seen_evenly_in_time_and_told_as_they_are_shown(uneven):
    (unit,) = plan(uneven)
    assert unit.timestamps == pytest.approx(range(20))
    assert unit.indices == (0, 25, 50, 75, 100, *range(125, 140))


def test_the_published_times_are_told_where_they_are_asked_for(uneven):
    indices = sampling.frame_indices(140, 20)
    for video, options in (
        (uneven, {"timestamps": "published"}),
        (Medium(uneven, MediaOptions(timestamps="published")), {}),
    ):
        (unit,) = plan(video, **options)
        assert unit.indices == tuple(indices)
        assert unit.timestamps == tuple(index / unit.source.average_fps for index in indices)


def test_a_videos_own_choice_of_times_goes_before_that_of_its_prompt(uneven):
    own = Medium(uneven, MediaOptions(timestamps="actual"))
    assert told(own, timestamps="published") == told(uneven)


def test_a_gap_is_one_frame_that_is_shown_for_long(tmp_path):
    ticks = [*range(20), *range(220, 240)]  # two seconds at 10 a second, twice, 20 seconds between them
    clip = write_clip(tmp_path / "gap.mp4", 40, pts=ticks, rate=10)
    assert told(clip) == [pytest.approx((0, 1, 1.9, 22.8, 23.9))]


def test_a_late_start_is_time_zero(tmp_path):
    ticks = [100 + tick for tick in FAST_THEN_SLOW]
    clip = write_clip(tmp_path / "late.mkv", 140, pts=ticks, rate=25)
    with open_clip(clip) as opened:
        assert opened.start == pytest.approx(4)
    assert told(clip) == [pytest.approx(range(20))]


@pytest.mark.parametrize("name", ["uneven.gif", "uneven.webp"])
def test_pictures_of_an_animation_are_told_with_their_own_times(tmp_path, name):
    frames = [Image.new("RGB", (64, 48), (40 * number, 0, 0)) for number in range(6)]
    durations = [100, 100, 100, 1700, 2000, 1000]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=durations)
    (unit,) = plan(str(tmp_path / name))
    assert unit.indices == (0, 3, 4, 5)
    assert unit.timestamps == pytest.approx((0, 0.3, 2, 4))
    assert told(str(tmp_path / name), video_fps=10) == [pytest.approx((0, 0.1, 0.2, 0.3, 2, 4))]


def test_a_last_frame_that_is_shown_for_long_is_no_reason_to_look_closely_at_the_others():
    times = [*np.arange(10) / 10, 0.9 + 9.1]  # the last but one is shown for 9.1 seconds, and so is the last
    (unit,) = plan(listed(times))
    assert unit.timestamps == (0.0, 0.9, 10.0)


def test_times_that_are_rounded_are_even(tmp_path):
    clip = write_clip(tmp_path / "rounded.mkv", 90, rate=30, pts=[round(n * 1001 / 1000) for n in range(90)])
    with open_clip(clip) as opened:
        assert opened.even
        assert told(clip) == [tuple(i / opened.average_fps for i in sampling.frame_indices(90, 3))]


@pytest.mark.parametrize("name", ["clip_10fps_6s.mp4", "clip_2997fps_audio.mp4", "clip_portrait.webm", "clip_40s.mp4"])
def test_even_clips_are_seen_by_the_published_rule(name):
    video = str(MEDIA / name)
    for options in ({}, {"video_fps": 3.7}):
        assert told(video, **options) == told(video, **options, timestamps="published")
    segments = {"video_path": video, "segments": [[0.3, 1.7], [2.0]]}
    assert told(segments, video_fps=5) == told(segments, video_fps=5, timestamps="published")


def test_half_a_frame_is_even_and_more_is_not():
    # The last frame lasts as long as the one before: four frames in four seconds.
    assert even([0, 1.5, 2, 3]) and even([0, 0.5, 2, 3])
    assert not even([0, 1.51, 2, 3]) and not even([0, 0.49, 2, 3])


def even(times):
    with open_clip(listed(times)) as clip:
        return clip.even


def test_a_single_frame_is_even():
    assert even([7]) and told(listed([7])) == [(7.0,)]


def test_a_frame_that_was_dropped_makes_no_time_wrong_by_more_than_half_a_frame(tmp_path):
    for dropped in (2, 50, 97):
        ticks = [tick for tick in range(100) if tick != dropped]
        clip = write_clip(tmp_path / f"{dropped}.mp4", 99, pts=ticks, rate=10)
        (unit,) = plan(clip, video_fps=10)
        assert len(unit.indices) == 99
        assert unit.timestamps == pytest.approx([tick / 10 for tick in ticks], abs=0.051)


def test_frames_of_segments_come_once_and_are_told_as_they_are_first_shown(uneven):
    segments = [[3.96, 4.1], [6.5, 9.2], [12.5], [13, 13.5]]
    assert told({"video_path": uneven, "segments": segments}, video_fps=50) == [
        pytest.approx((3.96, 4.0, 4.04, 4.08)),
        pytest.approx((6, 7, 8, 9)),
        pytest.approx((12,)),
        pytest.approx((13,)),
    ]


def test_segments_of_uneven_clips_keep_the_published_times_where_they_are_asked_for(uneven):
    video = {"video_path": uneven, "segments": [[6.5, 9.5]]}
    (unit,) = plan(video, timestamps="published", video_fps=2)
    assert unit.timestamps == (6.5, 7, 7.5, 8, 8.5, 9)
    assert unit.indices == (126, 127, 127, 128, 128, 129)


def test_frames_of_a_list_are_told_as_given_whatever_is_asked_for():
    for options in ({}, {"timestamps": "published"}):
        assert told(listed([5, 6.5, 15]), video_fps=4, **options) == [(5.0, 6.5, 15.0)]
        assert told(listed([5.1, 6.1, 7.1]), video_fps=4, **options) == [(5.1, 6.1, 7.1)]
        segments = {"video_path": listed([5, 6, 7, 8]), "segments": [[1, 3]]}
        assert told(segments, video_fps=4, **options) == [(6.0, 7.0)]


def test_least_frames_are_taken_from_those_between():
    times = [0, 0.1, 0.2, 0.3, 10, 20, 20.1, 20.2, 30]
    assert told(listed(times), video_fps=0.1) == [(0.0, 10.0, 20.0, 30.0)]
    assert told(listed(times), video_fps=0.1, min_frames=6) == [(0.0, 0.1, 0.3, 10.0, 20.2, 30.0)]
    assert told(listed(times), min_frames=100) == [tuple(times)]


@pytest.mark.parametrize("given", ["", "true", True, 1, "Published"])
def test_other_times_are_refused(given):
    with pytest.raises(OptionError, match=r"timestamps=.* must be 'actual' or 'published'"):
        MediaOptions(timestamps=given)


ticks = st.lists(st.integers(1, 10_000), min_size=1, max_size=40)
"""Milliseconds between frames."""
options = st.fixed_dictionaries(
    {}, optional={"video_fps": st.floats(0.01, 40), "min_frames": st.integers(1, 9), "max_frames": st.integers(9, 50)}
)


@given(ticks, options)
def test_any_times_are_sampled_in_order_and_told_truly(gaps, options):
    times = [0.0, *(np.cumsum(gaps) / 1000).tolist()]
    (unit,) = plan(listed(times), **options)
    assert unit.indices[0] == 0
    assert all(one < following for one, following in pairwise(unit.indices))
    assert unit.timestamps == tuple(times[index] for index in unit.indices)
    least, most = options.get("min_frames", 1), options.get("max_frames", 256)
    assert min(least, len(times)) <= len(unit.indices) <= most


@given(ticks, options)
def test_no_frame_is_left_out_for_longer_than_frames_are_apart(gaps, options):
    times = [0.0, *(np.cumsum(gaps) / 1000).tolist()]
    length = times[-1] + gaps[-1] / 1000
    (unit,) = plan(listed(times), **options)
    wanted = max(options.get("video_fps", 1.0) * length - 1e-6, options.get("min_frames", 1))
    count = min(int(np.ceil(wanted)), options.get("max_frames", 256))
    if not even(times) and count > 1:
        apart = max(times[-1] / (count - 1), length / count)
        assert unit.indices[-1] == len(times) - 1
        for one, following in pairwise(unit.indices):
            assert times[following] - times[one + 1] <= apart + 1e-5


@given(st.integers(1, 200), st.floats(0.1, 120), st.floats(-0.45, 0.45), options)
def test_even_times_give_the_published_result(count, rate, shift, options):
    times = [0.0, *((number + shift) / rate for number in range(1, count))]
    if not even(times):
        return
    (unit,) = plan(listed(times), **options)
    with open_clip(listed(times)) as clip:
        wanted = sampling.frame_count(
            count,
            clip.duration,
            options.get("video_fps", 1.0),
            options.get("min_frames", 1),
            options.get("max_frames", 256),
        )
    assert unit.indices == tuple(sampling.frame_indices(count, wanted))


@given(ticks, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3), options)
def test_frames_of_any_segments_come_once_and_are_told_truly(gaps, parts, options):
    times = [0.0, *(np.cumsum(gaps) / 1000).tolist()]
    segments = [sorted((start * times[-1], end * times[-1])) for start, end in parts if start != end]
    segments = [segment for segment in segments if segment[0] < segment[1]] or [[times[-1]]]
    for segment, unit in zip(
        segments, plan({"video_path": listed(times), "segments": segments}, **options), strict=True
    ):
        assert all(one < following for one, following in pairwise(unit.indices))
        assert unit.timestamps == tuple(times[index] for index in unit.indices)
        later = [time for time in times if time > segment[0] + 1e-5]
        assert unit.timestamps[0] < min(later, default=float("inf"))
        assert unit.timestamps[-1] <= segment[-1] + 1e-5
