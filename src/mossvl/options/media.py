"""Media options of a query: names, defaults and limits, defined once for Python, the command line and data files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self, get_args

from mossvl.errors import OptionError
from mossvl.options.checks import Choice, Count, Number, check_options, mapping, named_options, pick, present

MIN_PIXELS, MAX_PIXELS = 4_096, 16_777_216
"""Published bounds for the area of an image or of a video frame."""

PIXEL_BUDGET = 201_326_592
"""Published area that several images, or all frames, of one prompt share."""

MAX_FPS = 100_000

Timestamps = Literal["actual", "published"]
"""Which times a prompt tells of frames; see `MediaOptions`. The first one is the default."""


@named_options("media option")
@dataclass(frozen=True)
class MediaOptions:
    """How the media of one query are sampled and resized; None leaves it to the checkpoint's processor.

    Attributes:
        min_pixels, max_pixels: bounds for the area of an image or of one video frame.
        multi_image_max_pixels: area that several images of one prompt share.
        video_max_pixels: area that all frames of all videos of one prompt share.
        video_fps: frames sampled per second.
        min_frames, max_frames: bounds for their number; `max_frames` is shared by the videos of one prompt.
        timestamps: "actual" (the default): where frames are not evenly spaced, they are sampled evenly in time, and
            told with the times from when on they are shown. "published": as the published code does, which counts
            frames and divides by their average rate, and so tells wrong times of such clips. Where frames are evenly
            spaced, both are the same.
    """

    min_pixels: Count | None = None
    max_pixels: Count | None = None
    multi_image_max_pixels: Count | None = None
    video_max_pixels: Count | None = None
    video_fps: Annotated[float, Number(above=0, most=MAX_FPS)] | None = None
    min_frames: Count | None = None
    max_frames: Count | None = None
    timestamps: Annotated[Timestamps, Choice(get_args(Timestamps))] | None = None

    OLDER_NAMES = {"video_minlen": "min_frames", "video_maxlen": "max_frames"}
    OF_PARTS = {
        "image": ("min_pixels", "max_pixels"),
        "video": ("min_pixels", "max_pixels", "video_fps", "min_frames", "max_frames", "timestamps"),
    }
    """What a single medium of a prompt may have of its own, as keys of its part of a message."""

    def __post_init__(self) -> None:
        check_options(self)
        for least, most in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise OptionError(f"{least}={low} is more than {most}={high}")

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None) -> Self:
        """From `media_kwargs`. None values are defaults; the older names `video_minlen`, `video_maxlen` are known."""
        given = {} if given is None else mapping("media_kwargs", given)
        renamed = {cls.OLDER_NAMES.get(name, name): value for name, value in present(given).items()}
        return cls(**renamed)

    def over(self, others: "MediaOptions") -> "MediaOptions":
        """These options, and where they leave something open, the others."""
        own = {option.name: getattr(self, option.name) for option in fields(self)}
        return replace(others, **{name: value for name, value in own.items() if value is not None})


def bounds(what: str, options: MediaOptions, low: int, high: int) -> dict[str, int]:
    """min_… and max_… of a query, or the defaults; a bound that is given alone moves the default of the other."""
    least, most = getattr(options, f"min_{what}"), getattr(options, f"max_{what}")
    if least is None:
        least = min(low, pick(most, high))
    return {f"min_{what}": least, f"max_{what}": max(least, high) if most is None else most}
