"""Clips from video files, and `open_clip` for clips of every kind."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

from av.video.frame import VideoFrame

from mossvl.errors import MediaError
from mossvl.media.clip import Clip, Picture
from mossvl.media.fetch import local_file, source_name
from mossvl.media.frames import FrameReader, match_frames
from mossvl.media.limits import DEFAULT_LIMITS, Cancel, MediaLimits, Watch
from mossvl.media.packets import Run, plan_runs
from mossvl.media.pictures import FrameList, WebPAnimation, is_animated_webp, is_frame_list

_FAR_BACK = 4  # Keyframes.

__all__ = ["Clip", "VideoFile", "is_frame_list", "open_clip"]


def open_clip(
    source: Any, limits: MediaLimits = DEFAULT_LIMITS, num_threads: int = 4, cancel: Cancel | None = None
) -> Clip:
    """Open a video.

    Args:
        source: a path or URL (`http(s):`, `data:`, `file:`) of a video, an animated GIF or an animated WebP; or a list
            of frames: pairs (seconds, image) or dicts {"timestamp": seconds, "image": image}, where an image is any
            source that `load_image` accepts.
        num_threads: decoder threads.
        cancel: ends the download and the reading of packets.

    Raises:
        GenerationCancelled: `cancel` was set.
        MediaError: the video is missing, broken, without a video stream, or beyond `limits`.
        GenerationTimeout: the download, or reading the packets, took longer than `limits.timeout`.
    """
    if isinstance(source, (list, tuple)):
        return FrameList(source, limits)
    if not isinstance(source, (str, Path)):
        raise MediaError(
            f"a video of type {type(source).__name__} cannot be used; give a path, a URL or a list of (seconds, image)"
        )
    with ExitStack() as stack:
        path = stack.enter_context(local_file(source, limits, cancel))
        name = source_name(source)
        if is_animated_webp(path):
            clip: Clip = WebPAnimation(path, name, limits)
        else:
            clip = VideoFile(path, name, limits, num_threads, cancel)
        clip.holds(stack.pop_all())
    return clip


class VideoFile(Clip):
    """A video file, decoded by FFmpeg."""

    def __init__(
        self, path: Path, name: str, limits: MediaLimits, num_threads: int, cancel: Cancel | None = None
    ) -> None:
        self._num_threads = num_threads
        self._new_reader = partial(FrameReader, path, name, limits, num_threads)
        with ExitStack() as stack:
            reader = self._new_reader()
            stack.callback(reader.close)
            self._table = table = reader.scan(Watch(name, limits.timeout, cancel))
            super().__init__(name, limits, table.times, (table.start, table.end))
            self.player_start = table.start - min(reader.start, 0.0)
            stack.pop_all()
        # Kept for the first read, so that a clip that is read once is opened once.
        self._reader: FrameReader | None = reader
        self._first: VideoFrame | None = None

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, from the first decoded frame: headers may lack the size or the rotation."""
        with ExitStack() as stack:
            reader = self._take_reader()
            stack.callback(reader.close)
            self._first = next(self._find([0], reader, Watch(self.name, self.limits.timeout)))
            height, width = reader.picture(self._first)().shape[:2]
            stack.pop_all()
        self._reader = reader
        return height, width

    def _take_reader(self) -> FrameReader:
        """Return the kept reader, or a new reader; the caller owns it."""
        self.check_open()
        reader, self._reader = self._reader, None
        return reader or self._new_reader()

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.close()

    def _frames(self, indices: list[int], watch: Watch) -> Generator[Picture]:
        with closing(self._take_reader()) as reader:
            # `size` has decoded frame 0.
            known = [self._first] if self._first is not None and indices[:1] == [0] else []
            for frame in chain(known, self._find(indices[len(known) :], reader, watch)):
                yield reader.picture(frame)

    def _find(self, indices: list[int], reader: FrameReader, watch: Watch) -> Iterator[VideoFrame]:
        """Yield the frame for each index (strictly ascending)."""
        table = self._table
        runs = deque(plan_runs(table, indices, bridged=self._num_threads))
        while runs:
            run = runs.popleft()
            decoded = reader.decode(table, run.start, run.stop, run.wanted, watch)
            yield from match_frames(decoded, run.wanted, exact=True)
            if run.wanted:
                yield from self._recover(run, runs, reader.seeks, watch)

    def _recover(self, run: Run, later: deque[Run], seeks: bool, watch: Watch) -> Iterator[VideoFrame]:
        """Yield frames for the rest of a run with a missing frame, each the last decodable one up to its index.

        Decoding begins 1, 2, 4, … keyframes further back until a frame appears. From _FAR_BACK on, the file's keyframes
        are not reliable, and later runs are merged into this run: any file costs a few full decodes at most.
        """
        table = self._table
        place = table.keyframe_before(run.wanted[0])
        back = 1
        with closing(self._new_reader(careful=True, seeks=seeks)) as reader:
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
                    raise MediaError(
                        f"{self.name}: no frame can be decoded; the file is broken, encrypted, or its frames have more "
                        f"than {self.limits.image_pixels} pixels",
                        setting="MediaLimits.image_pixels",
                        advice=" ({})",
                    )
                back *= 2
