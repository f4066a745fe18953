"""Images and videos as written on the command line."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mossvl.cli.media_arguments import MediaArgument, kind_of, parse_media, parse_segment, parse_time, parse_video
from mossvl.errors import MediaError


def test_content_tells_what_a_file_is_whatever_its_name(media, tmp_path):
    shutil.copy(media / "photo.jpg", tmp_path / "clip.mp4")
    shutil.copy(media / "clip_10fps_6s.mp4", tmp_path / "photo.jpg.bin")
    assert kind_of(str(tmp_path / "clip.mp4")) == "image"
    assert kind_of(str(tmp_path / "photo.jpg.bin")) == "video"


def test_a_broken_picture_stays_a_picture(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert kind_of(str(tmp_path / "broken.png")) == "image"


def test_an_animation_is_an_image_unless_asked_for_as_video(tmp_path):
    path = tmp_path / "moving.gif"
    first, *rest = (Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue"))
    first.save(path, save_all=True, append_images=rest, duration=500)
    assert parse_media(str(path)).kind == "image"
    assert parse_media(f"video:{path}").kind == "video"
    assert parse_media(f"{path}#t=0.5") == MediaArgument(str(path), "video", (0.5,))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.com/a/photo.JPG?size=3", "image"),
        ("https://example.com/clip.webm#t=3", "video"),
        ("http://example.com/clip.mp4", "video"),
        ("video:https://example.com/stream?id=1", "video"),
        ("image:https://example.com/stream?id=1", "image"),
        ("data:image/png;base64,AAAA", "image"),
        ("data:video/mp4;base64,AAAA", "video"),
    ],
)
def test_the_name_of_a_url_tells_what_it_is(url, kind):
    assert parse_media(url).kind == kind


def test_a_url_that_tells_nothing_needs_a_prefix():
    with pytest.raises(MediaError, match="image:URL or video:URL"):
        parse_media("https://example.com/stream?id=1")


def test_parts_of_a_video(media):
    path = str(media / "clip_40s.mp4")
    assert parse_media(f"{path}#t=10,20").part == {
        "type": "video",
        "video": {"video_path": path, "segments": [[10.0, 20.0]]},
    }
    assert parse_media(f"{path}#t=4.5").segment == (4.5,)
    assert parse_media(path).part == {"type": "video", "video": path}
    assert parse_video(f"video:{path}#t=0:10,1:05").segment == (10.0, 65.0)


def test_a_file_whose_name_looks_like_a_part_is_that_file(media, tmp_path):
    path = tmp_path / "video.mp4#t=1,2"
    shutil.copy(media / "clip_10fps_6s.mp4", path)
    assert parse_media(str(path)) == MediaArgument(str(path), "video")


@pytest.mark.parametrize(
    "fragment", ["", ",", "1,", ",2", "2,1", "1,1", "1,2,3", "-1", "nan", "inf", "1e3", "1:60", "x"]
)
def test_what_is_no_time_is_an_error_that_shows_it(fragment):
    with pytest.raises(MediaError, match=r"video\.mp4#t="):
        parse_segment(fragment, f"video.mp4#t={fragment}")


def test_missing_files_and_times_of_images_are_errors(media):
    with pytest.raises(MediaError, match="no such file"):
        parse_media("none.mp4#t=1")
    with pytest.raises(MediaError, match="an image has no times"):
        parse_media(f"image:{media / 'photo.jpg'}#t=1")


@given(st.integers(0, 99), st.integers(0, 59), st.decimals(0, 59, places=3))
def test_clock_times_are_seconds(hours, minutes, seconds):
    assert parse_time(f"{hours}:{minutes:02}:{seconds}") == pytest.approx(3600 * hours + 60 * minutes + float(seconds))
    assert parse_time(f"{minutes}:{seconds}") == pytest.approx(60 * minutes + float(seconds))
    assert parse_time(str(seconds)) == float(seconds)


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_none(text):
    seconds = parse_time(text)
    assert seconds is None or seconds >= 0
