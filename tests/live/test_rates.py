"""Rates at which sources are sampled: which frames a rate gives, what it costs, and its limit."""

import numpy as np
import pytest

from mossvl.errors import OptionError
from mossvl.live.sources import Camera, Frames, Playback, Screen
from tests.media.clips import write_clip


@pytest.fixture
def clip(tmp_path):
    """Forty frames, ten a second."""
    return write_clip(tmp_path / "clip.mp4", 40, gop=10)


def times(frames):
    return [round(time, 3) for time, _ in frames]


@pytest.mark.parametrize("fps", [0.3, 1, 3.7, 10, 29.97])
def test_the_frames_of_a_rate_are_those_shown_at_its_instants(clip, fps):
    with Playback(clip, fps=fps, segment=(0.25, 3.5), pace=None) as source:
        shown = times(list(source))
    instants = [0.25 + number / fps for number in range(100) if 0.25 + number / fps < 3.5]
    assert shown == sorted({int(instant * 10 + 1e-5) / 10 for instant in instants})


def test_a_high_rate_costs_no_more_than_its_frames(tmp_path):
    """Two days of two frames have 172,800,000 instants."""
    black = np.zeros((32, 32, 3), np.uint8)
    looked = 0

    class Counted(Playback):
        def _sample(self, segment):
            index_at = self._clip.index_at

            def count(seconds):
                nonlocal looked
                looked += 1
                return index_at(seconds)

            self._clip.index_at = count
            return super()._sample(segment)

    with Counted([(0, black), (86_400, black)], fps=1000, pace=None) as source:
        assert times(list(source)) == [0, 86_400] and looked < 20


@pytest.mark.parametrize("make", [Playback, Camera, lambda clip, fps: Frames([], fps), lambda clip, fps: Screen(fps)])
@pytest.mark.parametrize("fps", [1001, 1e300, 10**400])
def test_a_rate_above_any_camera_s_is_refused(clip, make, fps):
    with pytest.raises(OptionError, match="fps"):
        make(clip, fps=fps)
