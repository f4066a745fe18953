"""Videos that were decoded elsewhere, as transformers hands them on: frames, and beside them when they were taken."""

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
    """Whether a video is frames without times: (frames, height, width, 3) or (frames, 3, height, width), or a list of
    pictures."""
    if isinstance(video, np.ndarray | Tensor):
        return video.ndim == 4
    if not isinstance(video, list | tuple) or not video or is_frame_list(video):
        return False
    return all(
        isinstance(one, Image.Image) or (isinstance(one, np.ndarray | Tensor) and one.ndim <= 3) for one in video
    )


def with_times(videos: Sequence[Any], metadata: Any) -> list[Any]:
    """Videos whose decoded frames have the times that metadata tell; other videos as they are.

    Args:
        videos: of all prompts, in order.
        metadata: for each video, or for a single one alone: a dict or `VideoMetadata` with `fps`, and `frames_indices`
            where frames were left out; None where there is nothing to tell.

    Raises:
        MediaError: nothing tells when decoded frames were taken, or it does not fit them.
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
    frames = _pictures(video)
    return list(zip(_times(len(frames), metadata), frames, strict=True))


def _pictures(video: Any) -> list[Any]:
    if isinstance(video, np.ndarray) and video.shape[1] in CHANNELS and video.shape[3] not in CHANNELS:
        video = video.transpose(0, 2, 3, 1)
    return list(video)


def _times(count: int, metadata: Any) -> list[float]:
    """Seconds at which `count` frames were taken."""
    names = ("fps", "frames_indices", "duration", "total_num_frames")
    told: dict[str, Any] = {
        name: metadata.get(name) if isinstance(metadata, Mapping) else getattr(metadata, name, None) for name in names
    }
    fps, indices = told["fps"], told["frames_indices"]
    if fps is None and told["duration"] and told["total_num_frames"]:
        fps = told["total_num_frames"] / told["duration"]
    if not isinstance(fps, int | float) or not fps > 0:
        raise MediaError(
            "a video of decoded frames does not tell when they were taken; give video_metadata={'fps': frames a second "
            "(and 'frames_indices', where some were left out)}, or pairs (seconds, picture)"
        )
    numbers = list(range(count)) if indices is None else [int(index) for index in indices]
    if len(numbers) != count:
        raise MediaError(f"video_metadata has {len(numbers)} frames_indices, but the video has {count} frames")
    return [number / fps for number in numbers]
