"""Clips from video files, and the one way in for clips of every kind."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from av.video.frame import VideoFrame

from mossvl.errors import MediaError
from mossvl.media.clip import Clip, Pixels
from mossvl.media.fetch import local_file, source_name
from mossvl.media.frames import FrameReader, display_matrix, match_frames
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits, Watch
from mossvl.media.packets import Run, plan_runs
from mossvl.media.pictures import FrameList, WebPAnimation, is_animated_webp, is_frame_list

_FAR_BACK = 4  # Keyframes.

__all__ = ["Clip", "VideoFile", "is_frame_list", "open_clip"]


def open_clip(source: Any, limits: MediaLimits = DEFAULT_LIMITS, num_threads: int = 4) -> Clip:
    """Open a video.

    Args:
        source: a path or URL (`http(s):`, `data:`, `file:`) of a video, an animated GIF or an animated WebP; or frames
            with their times, as pairs (seconds, image) or dicts {"timestamp": seconds, "image": image}, where an image
            is anything that `load_image` takes.
        num_threads: decoder threads.

    Raises:
        MediaError: missing, broken, without a video stream, or larger than `limits` allow.
        GenerationTimeout: reading its packets, or downloading it, took longer than `limits.timeout`.
    """
    if isinstance(source, (list, tuple)):
        return FrameList(source, limits)
    if not isinstance(source, (str, Path)):
        raise MediaError(
            f"a video of type {type(source).__name__} cannot be used; give a path, a URL or a list of (seconds, image)"
        )
    with ExitStack() as stack:
        path = stack.enter_context(local_file(source, limits))
        name = source_name(source)
        if is_animated_webp(path):
            clip: Clip = WebPAnimation(path, name, limits)
        else:
            clip = VideoFile(path, name, limits, num_threads)
        clip.holds(stack.pop_all())
    return clip


class VideoFile(Clip):
    """A video file, decoded by FFmpeg."""

    def __init__(self, path: Path, name: str, limits: MediaLimits, num_threads: int) -> None:
        self._arguments = path, name, limits, num_threads
        watch = Watch(name, limits.timeout)
        with ExitStack() as stack:
            reader = FrameReader(*self._arguments)
            stack.callback(reader.close)
            self._table = table = reader.scan(watch)
            # Only a decoded frame tells how large frames are and how they are turned. Kept, since it is asked for first
            # more often than not.
            self._first = next(self._find([0], reader, watch))
            self._matrix = display_matrix(self._first)
            height, width = reader.rgb(self._first, self._matrix).shape[:2]
            self._reader: FrameReader | None = reader
            stack.pop_all()
        super().__init__(name, limits, table.times, (table.start, table.end), (height, width))

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.close()

    def _frames(self, indices: list[int], watch: Watch) -> Generator[Pixels]:
        # The reader that opened the clip serves the first reading, so that a clip that is read once is opened once.
        reader, self._reader = self._reader or FrameReader(*self._arguments), None
        try:
            if indices and indices[0] == 0:
                yield reader.rgb(self._first, self._matrix)
                indices = indices[1:]
            for frame in self._find(indices, reader, watch):
                yield reader.rgb(frame, self._matrix)
        finally:
            reader.close()

    def _find(self, indices: list[int], reader: FrameReader, watch: Watch) -> Iterator[VideoFrame]:
        """The frame for each index (ascending)."""
        table = self._table
        runs = deque(plan_runs(table, indices))
        while runs:
            run = runs.popleft()
            decoded = reader.decode(table, run.start, run.stop, run.wanted, watch)
            yield from match_frames(decoded, run.wanted, exact=True)
            if run.wanted:
                yield from self._recover(run, runs, reader.seeks, watch)

    def _recover(self, run: Run, later: deque[Run], seeks: bool, watch: Watch) -> Iterator[VideoFrame]:
        """Frames for what is left of a run that lacked one, each the latest that can be decoded.

        Decoding begins further and further back until that gives something. When it has to go far, there is no relying
        on keyframes, and the runs to come are read in the same go: any file costs a few times its decoding at most.
        """
        table = self._table
        place = table.keyframe_before(run.wanted[0])
        back = 1
        with closing(FrameReader(*self._arguments, careful=True, seeks=seeks)) as reader:
            while run.wanted:
                start = max(place - back, 0)
                if back >= _FAR_BACK:
                    for other in later:
                        run.wanted.extend(other.wanted)
                        run.stop = max(run.stop, other.stop)
                    later.clear()
                stop = run.stop if start else len(table.pts) - 1
                decoded = reader.decode(table, int(table.keyframes[start]), stop, run.wanted, watch)
                yield from match_frames(decoded, run.wanted, or_after=start == 0)
                if run.wanted and start == 0:
                    raise MediaError(f"{self._arguments[1]}: no frame can be decoded; the file is broken or encrypted")
                back *= 2
