"""Decoded videos, as transformers passes them: frames, and metadata with their times."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mossvl.errors import MediaError
from mossvl.media.video import is_frame_list
from mossvl.processing.plan import Medium

CHANNELS = (1, 3, 4)


def is_decoded(video: Any) -> bool:
    """Whether a video is frames without times: (frames, height, width, 3), (frames, 3, height, width), or a list."""
    if isinstance(video, np.ndarray | Tensor):
        return video.ndim == 4
    if not isinstance(video, list | tuple) or not video or is_frame_list(video):
        return False
    return all(
        isinstance(one, Image.Image) or (isinstance(one, np.ndarray | Tensor) and one.ndim <= 3) for one in video
    )


def with_times(videos: Sequence[Any], metadata: Any) -> list[Any]:
    """Give decoded videos the times of their frames; other videos are returned as they are.

    Args:
        videos: videos of all prompts, in order.
        metadata: one for each video, or a single one for a single video: a dict or `VideoMetadata` with `fps`, and
            `frames_indices` if frames were left out; None for a video that is not decoded.

    Returns:
        the videos; decoded ones as lists of (seconds, frame).

    Raises:
        MediaError: metadata is missing for a decoded video, or does not match its frames.
    """
    listed = _flat(metadata)
    if metadata is not None and len(listed) != len(videos):
        raise MediaError(f"video_metadata tells of {len(listed)} videos, but {len(videos)} were given")
    return [_timed(video, own) for video, own in zip(videos, listed if listed else [None] * len(videos), strict=True)]


def _flat(metadata: Any) -> list[Any]:
    if isinstance(metadata, list | tuple):
        return [one for part in metadata for one in (_flat(part) if part is not None else [None])]
    return [] if metadata is None else [metadata]


def _timed(video: Any, metadata: Any) -> Any:
    if isinstance(video, Medium):
        return Medium(_timed(video.source, metadata), video.options)
    if not is_decoded(video):
        return video
    frames = _frames(video)
    return list(zip(_times(len(frames), metadata), frames, strict=True))


def _frames(video: Any) -> list[Any]:
    if isinstance(video, np.ndarray) and video.shape[1] in CHANNELS and video.shape[3] not in CHANNELS:
        video = video.transpose(0, 2, 3, 1)
    return list(video)


def _times(count: int, metadata: Any) -> list[float]:
    """Times of `count` frames, in seconds."""
    names = ("fps", "frames_indices", "duration", "total_num_frames")
    values: dict[str, Any] = {
        name: metadata.get(name) if isinstance(metadata, Mapping) else getattr(metadata, name, None) for name in names
    }
    fps, indices = values["fps"], values["frames_indices"]
    if fps is None and values["duration"] and values["total_num_frames"]:
        fps = values["total_num_frames"] / values["duration"]
    if not isinstance(fps, int | float) or not fps > 0:
        raise MediaError(
            "a video of decoded frames has no times; give video_metadata={'fps': frames per second (and "
            "'frames_indices', if frames were left out)}, or pairs (seconds, frame)"
        )
    numbers = list(range(count)) if indices is None else [int(index) for index in indices]
    if len(numbers) != count:
        raise MediaError(f"video_metadata has {len(numbers)} frames_indices, but the video has {count} frames")
    return [number / fps for number in numbers]
