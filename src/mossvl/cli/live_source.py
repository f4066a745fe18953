"""The argument that names where live frames come from."""

from collections.abc import Callable
from pathlib import Path

from mossvl.cli.media_arguments import MediaArgument, kind_of, parse_video
from mossvl.cli.places import CAMERA, is_camera
from mossvl.errors import MediaError
from mossvl.live.sources import Camera, Folder, FrameSource, Playback, Screen, SourceEvent
from mossvl.media.fetch import is_remote
from mossvl.media.limits import MediaLimits
from mossvl.processing.sampling import Segment


def open_source(
    argument: str,
    fps: float,
    pace: float | None,
    limits: MediaLimits,
    told: Callable[[SourceEvent], object] | None = None,
) -> FrameSource:
    """Open what an argument names: a camera, the screen, a folder that fills, or a video file.

    Args:
        pace: of a file; None for as fast as frames are taken.

    Raises:
        MediaError: it cannot be opened, or is none of these.
        OptionError: `fps` or `pace` is out of range.
    """
    if not argument:
        raise MediaError("the source is empty; give a file, a folder, a camera, an address, or screen")
    if argument == "screen":
        return Screen(fps, told=told)
    if (camera := CAMERA.fullmatch(argument)) is not None:
        return Camera(camera["address"] or 0, fps, limits=limits, told=told)
    if is_camera(argument):
        return Camera(argument, fps, limits=limits, told=told)
    if Path(argument).is_dir():
        return Folder(argument, limits=limits, told=told)
    video = parse_video(argument)
    if not is_remote(video.source) and kind_of(video.source) == "image":
        raise MediaError(f"{argument}: an image does not move; ask about it: mossvl ask")
    return Playback(video.source, fps, pace, segment_of(video), limits=limits, told=told)


def segment_of(video: MediaArgument) -> Segment | None:
    """The segment that an argument names."""
    match video.segment:
        case (start, end):
            return start, end
        case (instant,):
            return (instant,)
    return None
