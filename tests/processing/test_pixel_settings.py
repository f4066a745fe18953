"""What images and videos have in common: sizes, patches, normalising."""

import pytest

from mossvl.errors import OptionError
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor

PROCESSORS = pytest.mark.parametrize("kind", [MossVLImageProcessor, MossVLVideoProcessor])
GIVEN = {
    "size": {"shortest_edge": 1_000, "longest_edge": 9_000},
    "patch_size": 14,
    "temporal_patch_size": 1,
    "merge_size": 3,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}


@PROCESSORS
def test_each_setting_is_kept_saved_and_loaded(kind, tmp_path):
    kind(**GIVEN).save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in GIVEN} == GIVEN
    assert (loaded.layout.patch_size, loaded.layout.merge_size) == (14, 3)


@PROCESSORS
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": {"shortest_edge": 10, "longest_edge": 9}}, "shortest_edge=10 is more than longest_edge=9"),
        ({"size": 448}, "size=448 must be a dict"),
        ({"patch_size": 0}, "patch_size=0 must be at least 1"),
        ({"merge_size": 1.5}, "merge_size=1.5 must be a whole number"),
        ({"image_mean": [0.5, 0.5]}, "image_mean=.* must be three numbers$"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std=.* each above 0"),
    ],
)
def test_settings_that_are_none_are_refused(kind, given, message):
    with pytest.raises(OptionError, match=message):
        kind(**given)
