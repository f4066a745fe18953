import math
import time

import pytest

from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError
from mossvl.media.limits import MediaLimits, Watch


@pytest.mark.parametrize("name", ["image_pixels", "download_bytes", "timeout"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "10", None, True])
def test_a_limit_that_is_not_a_number_above_zero_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        MediaLimits(**{name: value})  # type: ignore[arg-type]


def test_a_pixel_limit_must_be_whole() -> None:
    with pytest.raises(OptionError, match="integer"):
        MediaLimits(image_pixels=1.5)  # type: ignore[arg-type]


def test_time_may_be_unlimited() -> None:
    Watch("clip", MediaLimits(timeout=math.inf).timeout).check()


def test_the_watch_raises_when_time_is_up() -> None:
    watch = Watch("clip.mp4", 1e-9)
    time.sleep(0.001)
    with pytest.raises(GenerationTimeout, match=r"clip\.mp4"):
        watch.check()


def test_paused_time_does_not_count() -> None:
    watch = Watch("clip", 0.2)
    with watch.paused():
        time.sleep(0.25)
    watch.check()


def test_the_watch_raises_when_cancelled() -> None:
    class Set:
        def is_set(self) -> bool:
            return True

    with pytest.raises(GenerationCancelled):
        Watch("clip", 10, Set()).check()
