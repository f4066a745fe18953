"""What will be looked at, settled before a single pixel is decoded: sizes, frames, timestamps.

A plan tells everything that the prompt needs. Pixels then stream out of it frame by frame, so that a long video is
never held whole.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mossvl.errors import MediaError, OptionError
from mossvl.media.fetch import source_name
from mossvl.media.image import Image, open_image
from mossvl.media.limits import MediaLimits
from mossvl.media.video import Clip, open_clip
from mossvl.options import MediaOptions, Timestamps
from mossvl.options.checks import check_names, choice, present
from mossvl.processing import sampling, sizes
from mossvl.processing.pixels import PatchLayout, resize


@dataclass(frozen=True)
class ImagePlan:
    """An image, and the size (pixels) it will be resized to."""

    source: Image
    height: int
    width: int
    timestamps: None = None

    @property
    def num_frames(self) -> int:
        return 1

    def frames(self, cancel: threading.Event | None = None, start: int = 0) -> Iterator[Tensor]:
        """The resized image, uint8 (3, height, width)."""
        if not start:
            yield resize(self.source.load(), self.height, self.width)


@dataclass(frozen=True)
class VideoPlan:
    """A video or one segment of it: the frames that will be seen, at which times, resized to which size (pixels)."""

    source: Clip
    height: int
    width: int
    indices: tuple[int, ...]
    timestamps: tuple[float, ...]

    @property
    def num_frames(self) -> int:
        return len(self.indices)

    def frames(self, cancel: threading.Event | None = None, start: int = 0) -> Iterator[Tensor]:
        """Resized frames, uint8 (3, height, width), as they are decoded, from the frame with the number `start` on."""
        for frame in self.source.read(self.indices[start:], cancel=cancel):
            yield resize(torch.from_numpy(frame).permute(2, 0, 1), self.height, self.width)


MediumPlan = ImagePlan | VideoPlan


@dataclass(frozen=True)
class Medium:
    """An image or a video with options of its own, which go before those of its prompt."""

    source: Any
    options: MediaOptions


def options_of(medium: Any, options: MediaOptions) -> MediaOptions:
    """How a medium is seen whose prompt has these options.

    Raises:
        OptionError: its own and those of the prompt exclude each other.
    """
    return medium.options.over(options) if isinstance(medium, Medium) else options


@dataclass(frozen=True)
class ImageSettings:
    """How an image is sized; see `MediaOptions`."""

    min_pixels: int
    max_pixels: int
    multi_image_max_pixels: int


@dataclass(frozen=True)
class VideoSettings:
    """How a video is sampled and sized; see `MediaOptions`."""

    min_pixels: int
    max_pixels: int
    video_max_pixels: int
    video_fps: float
    min_frames: int
    max_frames: int
    timestamps: Timestamps


def plan_images(
    images: Sequence[Any],
    settings: Sequence[ImageSettings],
    layout: PatchLayout,
    limits: MediaLimits,
    stack: ExitStack,
) -> list[ImagePlan]:
    """Open the images of one prompt, each with its settings, and settle their sizes. `stack` closes them."""
    opened = [stack.enter_context(open_image(source_of(image), limits)) for image in images]
    bounds = [(own.min_pixels, own.max_pixels) for own in settings]
    shapes = [(image.height, image.width) for image in opened]
    budget = settings[0].multi_image_max_pixels if settings else 0
    plans = []
    for image, own, most in zip(opened, settings, sizes.image_budgets(shapes, budget, bounds), strict=True):
        size = sizes.image_size(image.height, image.width, layout.factor, own.min_pixels, most)
        plans.append(ImagePlan(image, *_allowed(size, limits)))
    return plans


def _allowed(size: tuple[int, int], limits: MediaLimits) -> tuple[int, int]:
    """A picture is not made larger than it might be when it is read."""
    if size[0] * size[1] > limits.image_pixels:
        raise OptionError(
            f"min_pixels would make a picture of {size[1]} × {size[0]} pixels; the limit is {limits.image_pixels}"
        )
    return size


def source_of(medium: Any) -> Any:
    """What was given as a medium, without options of its own."""
    return medium.source if isinstance(medium, Medium) else medium


class GivenVideo(NamedTuple):
    """A video as it was given.

    Attributes:
        segments: None for the whole clip.
        times: "clip": times of frames count from the start of the clip; "segment": from the start of their segment.
    """

    source: Any
    segments: Sequence[Any] | None = None
    times: str = "clip"


def video_segments(video: Any) -> GivenVideo:
    """A video as given → its source, and its segments if it names any.

    Raises:
        MediaError: a dict has no "video_path".
        OptionError: a key of a dict is unknown, or its "times" are.
    """
    video = source_of(video)
    if not isinstance(video, dict):
        return GivenVideo(video)
    video = present(video)
    check_names(video, ("video_path", "segments", "times"), "key of a video")
    if video.get("video_path") is None:
        raise MediaError(f'a video given as a dict needs "video_path": {video!r:.200}')
    segments = video.get("segments")
    if segments is not None and not isinstance(segments, list | tuple):
        raise MediaError(
            f"{video['video_path']}: segments={segments!r:.200} must be a list of [start, end] or [instant]"
        )
    return GivenVideo(video["video_path"], segments, choice("times", video.get("times", "clip"), ("clip", "segment")))


def num_units(video: Any) -> int:
    """How many placeholders a video takes: one, or one for each segment."""
    segments = video_segments(video).segments
    return 1 if segments is None else len(segments)


def plan_videos(
    videos: Sequence[Any],
    settings: Sequence[VideoSettings],
    layout: PatchLayout,
    limits: MediaLimits,
    num_threads: int,
    stack: ExitStack,
) -> list[VideoPlan]:
    """Open the videos of one prompt, each with its settings, and settle frames, timestamps and sizes.

    One plan for each video unit; `stack` closes the clips.

    Raises:
        MediaError: a video cannot be read, or a segment does not lie in it.
    """
    clips = []
    for video in videos:
        given = video_segments(video)
        clip = stack.enter_context(open_clip(given.source, limits=limits, num_threads=num_threads))
        name = source_name(given.source) if isinstance(given.source, str | Path) else "the video"
        if given.segments is not None:
            given = given._replace(segments=sampling.check_segments(given.segments, clip.duration, name))
        clips.append((clip, given))

    most_of_all = _most_frames(videos, [clip for clip, _ in clips], settings)
    sampled = [
        (clip, own, indices, times)
        for (clip, given), own, most in zip(clips, settings, most_of_all, strict=True)
        for indices, times in _told(given, _sample(clip, given.segments, own, most))
    ]
    volumes = [len(indices) * clip.height * clip.width for clip, _, indices, _ in sampled]
    plans = []
    for (clip, own, indices, times), volume in zip(sampled, volumes, strict=True):
        budget = max(1, int(own.video_max_pixels * volume / sum(volumes)))
        size = sizes.frame_size(
            len(indices), clip.height, clip.width, layout.factor, own.min_pixels, own.max_pixels, budget
        )
        plans.append(VideoPlan(clip, *_allowed(size, limits), tuple(indices), tuple(times)))
    return plans


def _most_frames(videos: Sequence[Any], clips: Sequence[Clip], settings: Sequence[VideoSettings]) -> list[int]:
    """Most frames of each video: its own number, or its part of what those without one share.

    Parts go by the durations of whole clips, whatever segments of them are seen: that is the published rule.
    """
    most = [min(own.max_frames, max(1, own.video_max_pixels // own.min_pixels)) for own in settings]
    sharing = [
        place
        for place, video in enumerate(videos)
        if not (isinstance(video, Medium) and video.options.max_frames is not None)
    ]
    shared = max((most[place] for place in sharing), default=0)
    parts = sampling.allocate_frames([clips[place].duration for place in sharing], shared)
    for place, part in zip(sharing, parts, strict=True):
        most[place] = min(part, most[place])
    return most


Sample = tuple[list[int], Sequence[float]]
"""Indices of frames, and the times that are told of them."""


def _told(given: GivenVideo, units: list[Sample]) -> list[Sample]:
    """The frames of each unit, with the times that are told of them: a frame that is shown when its segment starts,
    and before, counts from that start on."""
    if given.segments is None or given.times == "clip":
        return units
    starts = [segment[0] for segment in given.segments]
    return [
        (indices, [max(0.0, time - start) for time in times])
        for (indices, times), start in zip(units, starts, strict=True)
    ]


def _sample(
    clip: Clip, segments: Sequence[sampling.Segment] | None, settings: VideoSettings, max_frames: int
) -> list[Sample]:
    """The frames of each unit of a video.

    Where frames are evenly spaced, or that is asked for, by the published rule. Else evenly in time, each frame once
    and told with the time from when on it is shown.
    """
    published = clip.even or settings.timestamps == "published"
    if segments is None:
        return [_sample_clip(clip, settings, max_frames, published)]
    return _sample_segments(clip, segments, settings, max_frames, published and not clip.given_times)


def _sample_clip(clip: Clip, settings: VideoSettings, max_frames: int, published: bool) -> Sample:
    # What is shown for long is sampled several times, and seen once: there may be more times than frames.
    most = clip.num_frames if published else max_frames
    count = sampling.frame_count(most, clip.duration, settings.video_fps, settings.min_frames, max_frames)
    if published:
        indices = sampling.frame_indices(clip.num_frames, count)
        if not clip.given_times:
            return indices, [index / clip.average_fps for index in indices]
    else:
        times = sampling.clip_times(float(clip.times[-1]), clip.duration, count)
        indices = sampling.each_once([0, *map(clip.index_at, times[1:])], settings.min_frames)
    return indices, clip.shown_times(indices)


def _sample_segments(
    clip: Clip, segments: Sequence[sampling.Segment], settings: VideoSettings, max_frames: int, published: bool
) -> list[Sample]:
    units = sampling.segment_times(segments, settings.video_fps, settings.min_frames, max_frames)
    shown = [[clip.index_at(time) for time in times] for times in units]
    if published:
        return list(zip(shown, units, strict=True))
    least = sampling.segment_parts(segments, settings.min_frames)
    once = [sampling.each_once(indices, part) for indices, part in zip(shown, least, strict=True)]
    return [(indices, clip.shown_times(indices)) for indices in once]
