"""Plans of media, made before any pixel is decoded: sizes, frames, timestamps.

A plan holds everything that the prompt needs; its `frames` then decodes pixels frame by frame, so that a long video is
never held in memory. A unit is a video, or a segment of a video: each unit has a plan and a placeholder.
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
from mossvl.media.clip import Picture
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
    """An image, and the size in pixels to which it is resized."""

    source: Image
    height: int
    width: int
    timestamps: None = None

    @property
    def num_frames(self) -> int:
        return 1

    def pictures(self, cancel: threading.Event | None = None, start: int = 0) -> Iterator[Picture]:
        """The image, as it is decoded; nothing if `start` is above 0."""
        if not start:
            yield self.source.array

    def frames(self) -> Iterator[Tensor]:
        """The resized image, uint8 (3, height, width)."""
        yield resize(self.source.load(), self.height, self.width)


@dataclass(frozen=True)
class VideoPlan:
    """A unit: the indices of its sampled frames, their timestamps in seconds, and their size in pixels."""

    source: Clip
    height: int
    width: int
    indices: tuple[int, ...]
    timestamps: tuple[float, ...]

    @property
    def num_frames(self) -> int:
        return len(self.indices)

    def pictures(self, cancel: threading.Event | None = None, start: int = 0) -> Iterator[Picture]:
        """The sampled frames, as they are decoded, from number `start` on."""
        return self.source.pictures(self.indices[start:], cancel)

    def frames(self) -> Iterator[Tensor]:
        """Decode and resize the sampled frames: uint8 (3, height, width) each."""
        for frame in self.source.read(self.indices):
            yield resize(torch.from_numpy(frame).permute(2, 0, 1), self.height, self.width)


MediumPlan = ImagePlan | VideoPlan


@dataclass(frozen=True)
class Medium:
    """An image or a video with options of its own, which take precedence over those of its prompt."""

    source: Any
    options: MediaOptions


def options_of(medium: Any, options: MediaOptions) -> MediaOptions:
    """The options of a medium, with those of its prompt as defaults.

    Raises:
        OptionError: the medium's options and those of the prompt exclude each other.
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
    """Open the images of one prompt, each with its settings, and compute their sizes; `stack` closes them.

    Raises:
        MediaError: an image cannot be read.
        OptionError: `min_pixels` would make an image too large.
    """
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
    """Hold a resized picture to the limit of decoded ones."""
    if size[0] * size[1] > limits.image_pixels:
        raise OptionError(
            f"{{min_pixels}} would make a picture of {size[1]} × {size[0]} pixels; the limit is {limits.image_pixels}",
            option="min_pixels",
        )
    return size


def source_of(medium: Any) -> Any:
    """A medium without options of its own."""
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
    """The source of a video, its segments or None, and how their times count.

    Raises:
        MediaError: a dict has no "video_path", or its "segments" are not a list.
        OptionError: a dict has an unknown key, or unknown "times".
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
    """Number of units of a video, and so of its placeholders: one, or one for each segment."""
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
    """Open the videos of one prompt, each with its settings, and choose frames, timestamps and sizes.

    Returns:
        one plan for each unit; `stack` closes the clips.

    Raises:
        MediaError: a video cannot be read, or has no such segment.
        OptionError: `min_pixels` would make a frame too large.
    """
    clips = []
    for video in videos:
        given = video_segments(video)
        clip = stack.enter_context(open_clip(given.source, limits=limits, num_threads=num_threads))
        name = source_name(given.source) if isinstance(given.source, str | Path) else "the video"
        if given.segments is not None:
            given = given._replace(segments=sampling.check_segments(given.segments, clip.duration, name))
        clips.append((clip, given))

    max_frames = _most_frames(videos, [clip for clip, _ in clips], settings)
    sampled = [
        (clip, own, indices, times)
        for (clip, given), own, most in zip(clips, settings, max_frames, strict=True)
        for indices, times in _timestamped(given, _sample(clip, given.segments, own, most))
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


def plan_stream(
    videos: Sequence[tuple[Any, Sequence[float]]],
    settings: ImageSettings,
    layout: PatchLayout,
    limits: MediaLimits,
    num_threads: int,
    stack: ExitStack,
) -> list[VideoPlan]:
    """Open the videos of a live stream, and compute the size of their frames; `stack` closes the clips.

    A frame of a stream is sized as an image alone is: frames come one by one, and share no budget.

    Args:
        videos: a source, and the instants (seconds) of its frames, ascending, each.

    Returns:
        one plan for each video; its timestamps are the instants.

    Raises:
        MediaError: a video cannot be read, or an instant lies outside it.
        OptionError: `min_pixels` would make a frame too large.
    """
    plans = []
    for source, times in videos:
        clip = stack.enter_context(open_clip(source, limits=limits, num_threads=num_threads))
        name = source_name(source) if isinstance(source, str | Path) else "the video"
        sampling.check_segments([[time] for time in times], clip.duration, name)
        size = sizes.image_size(clip.height, clip.width, layout.factor, settings.min_pixels, settings.max_pixels)
        plans.append(VideoPlan(clip, *_allowed(size, limits), tuple(map(clip.index_at, times)), tuple(times)))
    return plans


def _most_frames(videos: Sequence[Any], clips: Sequence[Clip], settings: Sequence[VideoSettings]) -> list[int]:
    """Most frames of each video: its own `max_frames`, or its share of the prompt's.

    Shares are in proportion to the durations of whole clips, whatever their segments: that is the published rule.
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
"""Indices of frames, and their timestamps in seconds."""


def _timestamped(given: GivenVideo, units: list[Sample]) -> list[Sample]:
    """Shift the timestamps of each unit to start at its segment, if `times` is "segment".

    A frame that is already shown when its segment starts gets 0.
    """
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
    """Sample each unit of a video.

    The published rule applies to even clips, and with `timestamps="published"`. Other clips are sampled evenly in time:
    each frame once, its timestamp the time from which it is shown.
    """
    published = clip.even or settings.timestamps == "published"
    if segments is None:
        return [_sample_clip(clip, settings, max_frames, published)]
    return _sample_segments(clip, segments, settings, max_frames, published and not clip.given_times)


def _sample_clip(clip: Clip, settings: VideoSettings, max_frames: int, published: bool) -> Sample:
    # Sampling in time hits a long frame several times, so the number of frames does not bound the number of times.
    available = clip.num_frames if published else max_frames
    count = sampling.frame_count(available, clip.duration, settings.video_fps, settings.min_frames, max_frames)
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
