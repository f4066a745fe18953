"""What is refused as a video, when reading it stops, and which files are open meanwhile."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from mossvl.errors import GenerationCancelled, GenerationTimeout, MediaError
from mossvl.media.limits import MediaLimits
from mossvl.media.video import open_clip

from .clips import Made, picture, write_clip, write_silence


def test_audio_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w") as out:
        write_silence(out, out.add_stream("aac", rate=44100))
    with pytest.raises(MediaError, match=r"sound\.m4a: has no video stream \(it has: audio\)"):
        open_clip(tmp_path / "sound.m4a")


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp3"), "w") as out:
        sound = out.add_stream("libmp3lame", rate=44100)
        cover: Any = out.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = Disposition.attached_pic
        out.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0, 48, 64), format="rgb24")))
        write_silence(out, sound)
    with av.open(str(tmp_path / "song.mp3")) as container:
        assert container.streams.video, "the cover is there"
    with pytest.raises(MediaError, match="no video stream"):
        open_clip(tmp_path / "song.mp3")


@pytest.mark.parametrize("content", [b"plain text, no video at all\n" * 99, b"\0" * 4096, b"\x1aE\xdf\xa3"])
def test_what_is_no_video_is_a_media_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thing.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"thing\.mp4"):
        open_clip(path)


@pytest.mark.parametrize("source", [3, None, b"bytes"])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(MediaError, match="type"):
        open_clip(source)


def test_frames_over_the_pixel_limit_are_refused(golden: Path) -> None:
    with pytest.raises(MediaError, match="160 x 120 pixels, more than the 10000"):
        open_clip(golden / "media" / "clip_10fps_6s.mp4", MediaLimits(image_pixels=10_000))


def test_frames_over_the_limit_are_not_decoded_when_the_header_hides_them(golden: Path) -> None:
    with pytest.raises(MediaError, match="10000 pixels"):
        _ = open_clip(golden / "media" / "clip_portrait.webm", MediaLimits(image_pixels=10_000)).size


def test_opening_stops_when_time_is_up(golden: Path) -> None:
    with pytest.raises(GenerationTimeout, match=r"clip_40s\.mp4"):
        open_clip(golden / "media" / "clip_40s.mp4", MediaLimits(timeout=1e-6))


def test_reading_stops_when_time_is_up(made: Callable[[str], Made]) -> None:
    with open_clip(made("long-gop.mp4").path) as clip:
        clip.limits = MediaLimits(timeout=1e-6)
        with pytest.raises(GenerationTimeout):
            next(clip.read([39]))


def test_a_slow_consumer_does_not_run_out_of_time(made: Callable[[str], Made]) -> None:
    with open_clip(made("two-frames.mp4").path, MediaLimits(timeout=0.5)) as clip:
        for _ in clip.read([0, 1]):
            time.sleep(0.6)


def test_cancelling_stops_between_frames(made: Callable[[str], Made]) -> None:
    cancel = threading.Event()
    with open_clip(made("short-gop.mp4").path) as clip:
        frames = clip.read(range(40), cancel=cancel)
        next(frames)
        cancel.set()
        with pytest.raises(GenerationCancelled):
            next(frames)


OpenFiles = Callable[[Path], list[str]]


def test_a_read_clip_holds_no_file(made: Callable[[str], Made], open_files: OpenFiles) -> None:
    path = made("short-gop.mp4").path
    clip = open_clip(path)
    list(clip.read([1, 2]))
    assert open_files(path) == []
    clip.close()


def test_closing_a_clip_that_was_never_read_closes_its_file(made: Callable[[str], Made], open_files: OpenFiles) -> None:
    path = made("short-gop.mp4").path
    open_clip(path).close()
    assert open_files(path) == []


def test_closing_a_clip_ends_its_readings(made: Callable[[str], Made], open_files: OpenFiles) -> None:
    path = made("short-gop.mp4").path
    clip = open_clip(path)
    frames = clip.read(range(40))
    next(frames)
    clip.close()
    assert open_files(path) == []


def test_an_error_closes_the_file(made: Callable[[str], Made], open_files: OpenFiles) -> None:
    path = made("short-gop.mp4").path
    clip = open_clip(path)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(GenerationCancelled):
        list(clip.read([3], cancel=cancel))
    assert open_files(path) == []


def test_a_refused_file_is_closed(tmp_path: Path, open_files: OpenFiles) -> None:
    write_clip(tmp_path / "clip.mp4", 3)
    with pytest.raises(MediaError):
        open_clip(tmp_path / "clip.mp4", MediaLimits(image_pixels=100))
    assert open_files(tmp_path) == []


def test_a_closed_clip_cannot_be_read(made: Callable[[str], Made]) -> None:
    clip = open_clip(made("short-gop.mp4").path)
    clip.close()
    with pytest.raises(MediaError, match="closed"):
        clip.read([0])


@pytest.mark.parametrize("kind", ["mp4", "gif", "webp", "frames"])
def test_a_clip_over_the_longest_duration_is_refused(
    tmp_path: Path, kind: str, open_files: Callable[[Path], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / f"clip.{kind}"
    if kind == "mp4":
        write_clip(path, 20, rate=10)
    pictures = [Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)) for number in range(20)]
    if kind in ("gif", "webp"):
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    source: Any = [(number / 10, picture) for number, picture in enumerate(pictures)] if kind == "frames" else path
    with open_clip(source, MediaLimits(duration=2.01)) as clip:
        assert clip.duration == pytest.approx(2)
    with pytest.raises(MediaError, match=r"2 seconds long, more than the 1\.5 allowed; .* MediaLimits\.duration"):
        open_clip(source, MediaLimits(duration=1.5))
    assert open_files(tmp_path) == []
