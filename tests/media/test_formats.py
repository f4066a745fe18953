"""Which files are read, and that their size is judged before memory is taken for their pixels."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from mossvl.errors import MediaError
from mossvl.media.image import image_size, load_image, open_image
from mossvl.media.limits import MediaLimits
from mossvl.media.video import open_clip

HEIC = Path(__file__).parent / "photo.heic"
SIDE = 30_000


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def ico(inner: bytes) -> bytes:
    return struct.pack("<3H4B2H2I", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def chunked(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def gif(screen: tuple[int, int], frame: tuple[int, int], disposal: int) -> bytes:
    control = b"!\xf9\x04" + bytes([disposal << 2, 0, 0, 0, 0])
    head = b"GIF89a" + struct.pack("<2H", *screen) + b"\x80\0\0" + bytes(6)
    return head + control + b"," + struct.pack("<4HB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0;"


def tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


LARGE = (SIDE).to_bytes(4, "big")
BOMBS = {
    "PNG": png_header(SIDE, SIDE),
    "ICO with a PNG": ico(png_header(SIDE, SIDE)),
    "GIF by its screen": gif((SIDE, SIDE), (1, 1), 0),
    "GIF by its frame": gif((1, 1), (SIDE, SIDE), 0),
    "GIF that disposes": gif((1, 1), (SIDE, SIDE), 2),
    "TIFF": tiff(SIDE, SIDE),
    "PPM": b"P6 %d %d 255\n" % (SIDE, SIDE) + bytes(99),
    "BMP": b"BM" + struct.pack("<3I", 99, 0, 54) + struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, *[0] * 6) + b"\0",
    "QOI": b"qoif" + LARGE + LARGE + b"\x03\0" + bytes(9),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_claims_a_large_picture_is_refused_by_its_size(kind: str) -> None:
    with pytest.raises(MediaError, match=f"{SIDE} x {SIDE} pixels, more than the 201326592 allowed"):
        open_image(BOMBS[kind])


def test_a_webp_that_claims_a_large_canvas_is_refused_by_its_size() -> None:
    out = io.BytesIO()
    pillow.new("RGB", (4, 4)).save(out, "WEBP", lossless=True)
    side = (16_000 - 1).to_bytes(3, "little")
    frame = chunked(b"ANMF", bytes([0] * 6 + [3, 0, 0, 3, 0, 0, 100, 0, 0, 0]) + out.getvalue()[12:])
    parts = chunked(b"VP8X", bytes([2, 0, 0, 0]) + side * 2) + chunked(b"ANIM", bytes(6)) + frame
    with pytest.raises(MediaError, match="16000 x 16000 pixels, more than"):
        open_image(chunked(b"RIFF", b"WEBP" + parts))


SCRIPT = r"""
import re, sys
from mossvl.errors import MediaError
from mossvl.media.image import open_image
from mossvl.media.limits import MediaLimits
from mossvl.media.video import open_clip
def most():  # getrusage would count what the process that started this one has
    return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
open_image(sys.argv[1] + "/small.png")
before = most()
for kind in range(int(sys.argv[2])):
    try:
        open_image(f"{sys.argv[1]}/{kind}", MediaLimits(image_pixels=1_000_000))
    except MediaError:
        continue
    sys.exit("not refused")
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to look into")
def test_what_is_refused_for_its_size_takes_no_memory(tmp_path: Path) -> None:
    """Also where Pillow decodes while it opens: these really hold the pixels that they claim."""
    pillow.new("RGB", (9, 9)).save(tmp_path / "small.png")
    inner = io.BytesIO()
    pillow.new("RGB", (9000, 9000)).save(inner, "PNG")
    files = [ico(inner.getvalue()), inner.getvalue(), gif((1, 1), (12_000, 12_000), 2), *BOMBS.values()]
    for number, data in enumerate(files):
        (tmp_path / str(number)).write_bytes(data)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(len(files))]
    kilobytes = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert kilobytes < 40_000


def test_a_picture_beyond_pillows_limit_is_read_within_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 10)
    for format in ("TIFF", "ICO", "WEBP", "GIF", "PNG"):
        out = io.BytesIO()
        pillow.new("RGB", (16, 16), "red").save(out, format, **({"sizes": [(16, 16)]} if format == "ICO" else {}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_image(out.getvalue())[0, 8, 8] >= 250


def test_pillows_limit_still_holds_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 10)
    out = io.BytesIO()
    pillow.new("RGB", (16, 16)).save(out, "PNG")
    with pytest.raises(pillow.DecompressionBombError):
        pillow.open(out)


def test_long_texts_and_profiles_in_a_png_are_no_reason_to_refuse_it() -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    out = io.BytesIO()
    pillow.new("RGB", (9, 7), (1, 2, 3)).save(out, "PNG", pnginfo=texts, icc_profile=bytes(3_000_000))
    assert load_image(out.getvalue())[:, 6, 8].tolist() == [1, 2, 3]


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="the extra heif is not installed")
def test_a_heic_photo_is_read() -> None:
    assert image_size(HEIC) == (80, 120)
    assert np.abs(load_image(HEIC)[:, 5, 5].numpy().astype(int) - [200, 0, 0]).max() <= 5


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="the extra heif is not installed")
def test_a_heic_photo_over_the_limit_is_refused_by_its_size() -> None:
    with pytest.raises(MediaError, match="120 x 80 pixels, more than the 99 allowed"):
        open_image(HEIC, MediaLimits(image_pixels=99))


def test_without_its_plug_in_a_heic_photo_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match="pip install pillow-heif"):
        open_image(HEIC)


def test_formats_are_named_only_where_their_decoder_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from mossvl.media import formats

    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.delitem(pillow.OPEN, "AVIF", raising=False)
    with pytest.raises(MediaError) as raised:
        open_image(b"no image at all")
    assert "JPEG, PNG" in str(raised.value)
    assert "HEIF" not in str(raised.value) and "AVIF" not in str(raised.value)


def test_floats_that_are_no_numbers_are_black_and_do_not_change_the_others() -> None:
    out = io.BytesIO()
    values = np.array([[0, 0.5, 1, np.nan, np.inf, -np.inf]], np.float32)
    pillow.fromarray(values).save(out, "TIFF")
    assert load_image(out.getvalue())[1, 0].tolist() == [0, 128, 255, 0, 255, 0]


def test_twelve_bits_in_sixteen_are_read_as_sixteen() -> None:
    """Nothing in the file tells them from a dark picture."""
    out = io.BytesIO()
    pillow.fromarray(np.array([[0, 4095]], np.uint16)).save(out, "PNG")
    assert load_image(out.getvalue())[0, 0].tolist() == [0, 16]


@pytest.mark.parametrize("name", ["notes.txt", "notes.nfo", "notes.bin", "notes.mp4"])
def test_text_is_no_video_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("Things to do on Monday.\n" * 30)
    with pytest.raises(MediaError, match="neither an image nor a video that can be read"):
        open_clip(path)
