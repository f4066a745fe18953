"""The video processor, with transformers' interface."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from transformers import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from mossvl.media.limits import MediaLimits
from mossvl.media.video import is_frame_list
from mossvl.options import MediaOptions
from mossvl.options.checks import pick, whole
from mossvl.options.media import PIXEL_BUDGET, bounds
from mossvl.processing.pixel_settings import PixelSettings
from mossvl.processing.plan import VideoPlan, VideoSettings, options_of, plan_videos
from mossvl.processing.tensors import media_tensors


class MossVLVideoProcessor(PixelSettings, BaseVideoProcessor):
    """Videos to patches.

    Args:
        video_max_pixels: area in pixels that all frames of all videos of one prompt share.
        video_fps, min_frames, max_frames: see `MediaOptions`.
        num_extract_threads: threads that decode a video.
        settings: see `PixelSettings`.
    """

    def __init__(
        self,
        size: Mapping[str, int] | None = None,
        video_max_pixels: int = PIXEL_BUDGET,
        video_fps: float = 1.0,
        min_frames: int = 1,
        max_frames: int = 256,
        num_extract_threads: int = 4,
        **settings: Any,
    ) -> None:
        super().__init__(size, **settings)
        self.video_max_pixels = whole("video_max_pixels", video_max_pixels)
        MediaOptions(video_fps=video_fps, min_frames=min_frames, max_frames=max_frames)  # raises if out of range
        self.video_fps = video_fps
        self.min_frames = min_frames
        self.max_frames = max_frames
        self.num_extract_threads = whole("num_extract_threads", num_extract_threads)

    def settings(self, options: MediaOptions) -> VideoSettings:
        """A query's options, with this processor's settings as defaults."""
        return VideoSettings(
            **bounds("pixels", options, self.size["shortest_edge"], self.size["longest_edge"]),
            **bounds("frames", options, self.min_frames, self.max_frames),
            video_max_pixels=pick(options.video_max_pixels, self.video_max_pixels),
            video_fps=pick(options.video_fps, self.video_fps),
            timestamps=pick(options.timestamps, "actual"),
        )

    def plan(
        self, videos: Sequence[Any], options: MediaOptions, limits: MediaLimits, stack: ExitStack
    ) -> list[VideoPlan]:
        """Open the videos of one prompt and choose frames and sizes, one plan for each unit; `stack` closes them.

        Raises:
            MediaError: a video cannot be read, or has no such segment.
            OptionError: options exclude each other, or would make a frame too large.
        """
        settings = [self.settings(options_of(video, options)) for video in videos]
        return plan_videos(videos, settings, self.layout, limits, self.num_extract_threads, stack)

    def __call__(self, videos: Any, limits: MediaLimits | None = None, **media_kwargs: Any) -> BatchFeature:
        """Process the videos of one prompt.

        Returns:
            `pixel_values` (patches, 3 · patch_size²) float32, `grid_thw` (units, 3) int64 and, for each unit, the
            `timestamps` of its frames in seconds.

        Raises:
            InputError: a video or an option cannot be used.
        """
        videos = list(videos) if isinstance(videos, list | tuple) and not is_frame_list(videos) else [videos]
        with ExitStack() as stack:
            options = MediaOptions.from_dict(media_kwargs)
            plans = self.plan(videos, options, limits or MediaLimits(), stack)
            return BatchFeature({**media_tensors(plans, self), "timestamps": [list(plan.timestamps) for plan in plans]})

    preprocess = __call__
