"""Media options of a query: names, defaults and limits, defined once for Python, the command line and data files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self, get_args

from mossvl.errors import OptionError
from mossvl.options.checks import Choice, Count, Number, check_options, mapping, named_options, pick, present

MIN_PIXELS, MAX_PIXELS = 4_096, 16_777_216
"""Published minimum and maximum area of an image or video frame, in pixels."""

PIXEL_BUDGET = 201_326_592
"""Published maximum total area of several images, or of all frames, of a prompt, in pixels."""

MAX_FPS = 100_000

Timestamps = Literal["actual", "published"]
"""How timestamps of frames are computed; see `MediaOptions`. The first is the default."""


@named_options("media option")
@dataclass(frozen=True)
class MediaOptions:
    """How the media of a query are sampled and resized; None for the value of the checkpoint's processor.

    Attributes:
        min_pixels, max_pixels: minimum and maximum area of an image or video frame, in pixels.
        multi_image_max_pixels: maximum total area of several images of a prompt, in pixels.
        video_max_pixels: maximum total area of all video frames of a prompt, in pixels.
        video_fps: sampled frames per second.
        min_frames, max_frames: minimum number of frames of a video, and maximum number of all videos of a prompt.
        timestamps: "actual" (the default): frames that are not evenly spaced are sampled evenly in time, with their
            presentation times as timestamps. "published": frame numbers divided by the average rate, as in the
            published code, which are wrong for such clips. For evenly spaced frames, both are the same.

    Raises:
        OptionError: an option is unknown or out of range, or a minimum is above its maximum.
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
    """Options that a content part of a message may set for its medium, by kind."""

    def __post_init__(self) -> None:
        check_options(self)
        for least, most in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise OptionError(f"{{{least}=}} is more than {{{most}=}}", given={least: low, most: high})

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None) -> Self:
        """Make options of `media_kwargs`, which may use the older names `video_minlen` and `video_maxlen`."""
        given = {} if given is None else mapping("media_kwargs", given)
        renamed = {cls.OLDER_NAMES.get(name, name): value for name, value in present(given).items()}
        return cls(**renamed)

    def over(self, others: "MediaOptions") -> "MediaOptions":
        """Return these options, completed by the others where these are None."""
        own = {option.name: getattr(self, option.name) for option in fields(self)}
        return replace(others, **{name: value for name, value in own.items() if value is not None})


def bounds(what: str, options: MediaOptions, low: int, high: int) -> dict[str, int]:
    """Return min_… and max_… of a query, or the defaults `low` and `high`, moved to fit a bound that is given alone."""
    least, most = getattr(options, f"min_{what}"), getattr(options, f"max_{what}")
    if least is None:
        least = min(low, pick(most, high))
    return {f"min_{what}": least, f"max_{what}": max(least, high) if most is None else most}
