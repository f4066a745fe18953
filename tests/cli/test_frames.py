"""`mossvl frames`"""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media.clips import write_clip
from PIL import Image

from mossvl.cli.contact_sheet import MAX_HEIGHT, MAX_WIDTH, SheetLayout, draw_sheet


def rows(result):
    """The table as a dict."""
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in result.stdout.splitlines())


def test_the_published_settings_apply_without_a_checkpoint(command, media):
    result = command("frames", media / "clip_10fps_6s.mp4")
    assert (result.exit_code, result.stderr) == (0, "")
    told = rows(result)
    assert told["model"] == "the published one of 11 billion parameters; -c takes another"
    assert told["seen"].startswith("6 frames, from 0.0 to ")
    assert "60 frames, 10.00 a second" in told["length"]
    width, height = map(int, re.search(r"seen at (\d+) × (\d+)", told["frame size"]).groups())
    tokens = width // 32 * (height // 32) + 1
    assert told["vision tokens"] == f"{6 * tokens:,} ({tokens:,} a frame)"
    # Keys and values of 8 heads of 128 numbers of 2 bytes in 12 layers.
    assert told["their KV memory"].startswith(f"{6 * tokens * 2 * 8 * 128 * 2 * 12 / 2**20:.1f} MiB (12 layers")


def test_a_picture_is_a_video_of_one_frame(command, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    told = rows(command("frames", tmp_path / "picture.png"))
    assert "s, 1 frame, " in told["length"] and told["seen"] == "1 frame, at 0.0 s"


def test_flags_parts_and_checkpoint_settings(command, media, checkpoint):
    told = rows(command("frames", f"{media / 'clip_40s.mp4'}#t=10,12", "--video-fps", 4, "-c", checkpoint))
    assert told["model"] == str(checkpoint) and told["seen"] == "8 frames, from 10.0 to 11.8 s"
    assert "(2 layers" in told["their KV memory"]
    assert re.match(r"\d+, KV memory", told["text tokens"])


def test_a_clip_that_is_not_even_is_shown_with_the_times_of_the_prompt(command, tmp_path):
    clip = write_clip(tmp_path / "uneven.mp4", 23, pts=[*range(20), 60, 80, 97], rate=10)
    assert rows(command("frames", clip, "--video-fps", 0.25))["seen"] == "3 frames, from 0.0 to 9.7 s"
    told = rows(command("frames", clip, "--video-fps", 0.25, "--timestamps", "published"))
    assert told["seen"] == "3 frames, from 0.0 to 9.4 s"


def test_the_sheet_shows_every_frame(command, media, tmp_path):
    output = tmp_path / "sheet.png"
    result = command("frames", media / "clip_40s.mp4", "-o", output)
    assert result.exit_code == 0
    with Image.open(output) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width <= MAX_WIDTH
    assert os.listdir(tmp_path) == ["sheet.png"]


def test_frames_of_a_sheet_stand_in_order():
    colours = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#00ffff"]
    pictures = (Image.new("RGB", (64, 32), colour) for colour in colours)
    sheet = draw_sheet(pictures, [0.0, 1.0, 2.0, 3.0, 4.0], (64, 32), "title", "text")
    seen = [sheet.getpixel((x, y)) for y in range(0, sheet.height, 8) for x in range(0, sheet.width, 8)]
    found = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in dict.fromkeys(seen)]
    assert [colour for colour in found if colour in colours] == colours


@given(st.integers(1, 256), st.integers(1, 8000), st.integers(1, 8000), st.integers(20, 80))
def test_any_sheet_stays_within_bounds(frames, width, height, label):
    layout = SheetLayout.fit(frames, width, height, label)
    assert 1 <= layout.columns <= frames <= layout.columns * layout.rows < frames + layout.columns
    assert 1 <= layout.width <= width and 1 <= layout.height <= height
    right = max(layout.corner(index)[0] for index in range(frames)) + layout.width
    assert right <= layout.columns * (layout.cell + 12) <= MAX_WIDTH
    assert layout.corner(frames - 1)[1] + layout.height <= MAX_HEIGHT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4"], "no such file"),
        (["VIDEO#t=9,10"], "outside the video"),
        (["VIDEO", "-o", "sheet.jpg"], ".png"),
        (["VIDEO", "-o", "/none/sheet.png"], "/none/sheet.png: cannot be written"),
        (["VIDEO", "--max-image-pixels", "10"], "more than the 10 allowed"),
        (["VIDEO", "-c", "/none"], "not a folder"),
        (["VIDEO", "-c", "MEDIA"], "no config.json"),
        (["CONFIG"], "config.json"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_leaves_nothing(command, media, checkpoint, tmp_path, arguments, message):
    given = {"VIDEO": str(media / "clip_10fps_6s.mp4"), "CONFIG": str(checkpoint / "config.json"), "MEDIA": str(media)}
    for name, path in given.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    result = command("frames", "-o", tmp_path / "sheet.png", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_sheet_that_cannot_be_drawn_leaves_the_old_one(command, media, tmp_path):
    output = tmp_path / "sheet.png"
    output.write_bytes(b"old")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((media / "clip_10fps_6s.mp4").read_bytes()[:2000])
    assert command("frames", broken, "-o", output).exit_code == 2
    assert output.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["broken.mp4", "sheet.png"]
