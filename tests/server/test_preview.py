"""What a preview tells of a medium, without a server."""

from itertools import pairwise

import pytest
from golden_cases import MEDIA
from media.clips import write_clip

from mossvl.options import MediaOptions
from mossvl.server.preview import preview


def frames(processor, video, side=0, **options):
    return preview(processor, {"type": "video", "video": str(video), **options}, MediaOptions(), side)["frames"]


@pytest.fixture
def uneven(tmp_path):
    """Six seconds, the first of which has ten frames, the others one each; the file's clock begins at 10."""
    return write_clip(tmp_path / "uneven.mp4", 15, pts=[*range(100, 110), *range(110, 160, 10)], rate=10)


def test_frames_have_the_times_of_the_prompt_and_those_of_a_player(processor, uneven):
    assert frames(processor, uneven) == [{"time": time, "seek": 10 + time} for time in range(6)]


def test_published_times_are_told_and_not_sought(processor, uneven):
    seen = frames(processor, uneven, timestamps="published")
    assert [frame["time"] for frame in seen] == pytest.approx([index * 5.1 / 15 for index in (0, 2, 5, 8, 11, 14)])
    assert [frame["seek"] for frame in seen] == [10, 10.2, 10.5, 10.8, 12, 15]


def test_frames_of_even_clips_are_sought_where_they_are_shown(processor):
    seen = frames(processor, MEDIA / "clip_2997fps_audio.mp4", video_fps=3)
    assert [frame["seek"] for frame in seen] == pytest.approx([frame["time"] for frame in seen], abs=0.5 / 29.97)


def test_thumbnails_belong_to_their_frames(processor, uneven):
    seen = frames(processor, uneven, side=32)
    assert [frame["seek"] for frame in seen] == [10, 11, 12, 13, 14, 15]
    assert all(one["thumbnail"] != other["thumbnail"] for one, other in pairwise(seen))


def test_a_picture_has_no_time(processor):
    seen = preview(processor, {"type": "image", "image": str(MEDIA / "shapes.png")}, MediaOptions(), 0)
    assert seen["frames"] == [{"time": None, "seek": None}]
