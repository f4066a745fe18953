import math
import pickle
import time
from pathlib import Path

import pytest

from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits, SourcePolicy, Watch


def test_by_default_media_come_from_anywhere_within_documented_bounds() -> None:
    assert DEFAULT_LIMITS == MediaLimits() == MediaLimits(201_326_592, 2**30, 600.0, math.inf, 5, SourcePolicy())
    assert SourcePolicy() == SourcePolicy(directories=None, public_only=False, domains=())


@pytest.mark.parametrize(
    ("name", "least"),
    [("image_pixels", 1), ("download_bytes", 1), ("redirects", 0), ("timeout", 0.001), ("duration", 0.001)],
)
def test_a_limit_may_be_as_low_as_can_be(name: str, least: float) -> None:
    assert getattr(MediaLimits(**{name: least}), name) == least  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["image_pixels", "download_bytes", "timeout", "duration"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "10", None, True])
def test_a_limit_that_is_not_a_number_above_zero_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        MediaLimits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("redirects", -1), ("redirects", 1.5), ("sources", None), ("sources", {})])
def test_other_limits_are_checked_by_name_too(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        MediaLimits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["directories", "domains"])
@pytest.mark.parametrize("value", ["/srv", ["/srv"], (1,), ("",)])
def test_a_policy_that_is_no_tuple_of_names_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        SourcePolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "domain", ["https://example.org", "*.example.org", ".example.org", "example.org:80", "[::1]", "\xad"]
)
def test_a_domain_is_a_name_alone(domain: str) -> None:
    with pytest.raises(OptionError, match="domains"):
        SourcePolicy(domains=(domain,))


def test_a_policy_says_yes_or_no() -> None:
    with pytest.raises(OptionError, match="public_only"):
        SourcePolicy(public_only=1)  # type: ignore[arg-type]


def test_limits_serve_as_keys_in_every_process() -> None:
    limits = MediaLimits(sources=SourcePolicy(directories=(Path("/srv"), "media"), domains=("example.org",)))
    again = pickle.loads(pickle.dumps(limits))
    assert again == limits and hash(again) == hash(limits) and repr(again) == repr(limits)
    assert limits != MediaLimits()


def test_a_pixel_limit_must_be_whole() -> None:
    with pytest.raises(OptionError, match=r"image_pixels=1\.5 must be a whole number"):
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


def test_time_before_and_after_a_pause_counts() -> None:
    watch = Watch("clip", 0.01)
    with watch.paused():
        pass
    time.sleep(0.02)
    with pytest.raises(GenerationTimeout):
        watch.check()


def test_the_watch_raises_when_cancelled() -> None:
    class Set:
        def is_set(self) -> bool:
            return True

    with pytest.raises(GenerationCancelled, match="clip"):
        Watch("clip", 10, Set()).check()
