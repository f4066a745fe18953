"""What is transparent is shown on white, whatever it is stored in."""

import io
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image as pillow

from mossvl.media.image import load_image
from mossvl.media.video import open_clip

WHITE = [255, 255, 255]
RGBA = np.random.default_rng(1).integers(0, 256, (6, 9, 4), dtype=np.uint8)
RGBA[:2, :, 3], RGBA[2:4, :, 3] = 0, 255


def on_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) → (H, W, 3), by the definition of opacity."""
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def near(pixels: Any, expected: np.ndarray) -> bool:
    """Equal but for rounding."""
    return pixels.shape == expected.shape and bool((np.abs(pixels.astype(float) - expected) <= 1).all())


def as_array(source: Any) -> np.ndarray:
    return load_image(source).permute(1, 2, 0).numpy()


def encoded(image: pillow.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(depth: int, kind: int, size: tuple[int, int], rows: list[bytes], transparent: bytes = b"") -> bytes:
    """A PNG from its parts, for what Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts if part[1] or part[0] == b"IEND")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "ICO", "JPEG2000", "QOI"])
def test_a_file_with_alpha(format: str) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True, "exact": True}, "ICO": {"sizes": [(9, 6)]}}.get(format, {})
    data = encoded(pillow.fromarray(RGBA), format, **options)
    assert near(as_array(data), on_white(RGBA))
    assert as_array(data)[0, 0].tolist() == WHITE and as_array(data)[2].tolist() == RGBA[2, :, :3].tolist()


def test_a_lossy_format_with_alpha() -> None:
    image = pillow.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((10, 20, 30, 255), (16, 0, 32, 32))
    pixels = as_array(encoded(image, "AVIF"))
    assert (pixels[:, :12] > 250).all() and (pixels[:, 20:] < 40).all()


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_a_pillow_image_of_every_mode_with_alpha(mode: str) -> None:
    image = pillow.new("RGBA", (4, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (90, 90, 90, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    if mode == "PA":
        image = image.quantize(8).convert("PA")
        image.putalpha(pillow.fromarray(np.array([[0, 255, 128, 0]], np.uint8)))
    elif mode != "RGBA":
        image = image.convert("LA" if mode == "La" else mode).convert(mode)
    assert image.mode == mode
    assert as_array(image)[0].tolist() == [WHITE, [90] * 3, [127] * 3, WHITE]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_one_transparent_colour(format: str) -> None:
    image = pillow.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert as_array(encoded(image, format, transparency=0)).tolist() == [[WHITE, [40, 50, 60]]]


def test_a_palette_with_an_alpha_for_each_colour() -> None:
    image = pillow.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 200, 100, 0, 7, 8, 9])
    pixels = as_array(encoded(image, "PNG", transparency=bytes([0, 51, 255])))
    assert near(pixels, np.array([[WHITE, [244, 224, 204], [7, 8, 9]]]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(1, 0, (2, 1), [b"\x40"], struct.pack(">H", 0)), id="1 bit grey"),
        pytest.param(png(2, 0, (2, 1), [b"\x70"], struct.pack(">H", 1)), id="2 bits grey"),
        pytest.param(png(4, 0, (2, 1), [b"\x3f"], struct.pack(">H", 3)), id="4 bits grey"),
        pytest.param(png(8, 0, (2, 1), [b"\x09\xff"], struct.pack(">H", 9)), id="8 bits grey"),
        pytest.param(png(16, 0, (2, 1), [b"\x01\x02\xff\xff"], struct.pack(">H", 0x102)), id="16 bits grey"),
        pytest.param(png(8, 2, (2, 1), [b"\1\2\3\xff\xff\xff"], struct.pack(">3H", 1, 2, 3)), id="8 bits colour"),
        pytest.param(
            png(16, 2, (2, 1), [b"\1\0\2\0\3\0" + b"\xff" * 6], struct.pack(">3H", 0x100, 0x200, 0x300)),
            id="16 bits colour",
        ),
    ],
)
def test_a_transparent_colour_in_a_png(data: bytes) -> None:
    assert as_array(data).tolist() == [[WHITE, WHITE]]


def test_the_colours_beside_the_transparent_one_stay_in_a_png_of_few_bits() -> None:
    data = png(2, 0, (4, 1), [b"\x1b"], struct.pack(">H", 1))  # 0, 1, 2, 3
    assert as_array(data)[0, :, 0].tolist() == [0, 255, 170, 255]


def test_sixteen_bits_with_alpha() -> None:
    half, full = 0x8000, 0xFFFF
    row = struct.pack(">12H", 0, 0, 0, 0, full, 0, 0, half, 0x6464, 0, 0, full)
    assert near(as_array(png(16, 6, (3, 1), [row])), np.array([[WHITE, [255, 127, 127], [0x64, 0, 0]]]))
    assert near(as_array(png(16, 4, (2, 1), [struct.pack(">4H", 0, 0, 0, half)])), np.array([[WHITE, [127] * 3]]))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(RGBA, id="array"),
        pytest.param(RGBA / 255, id="array of floats"),
        pytest.param((RGBA / 255).astype(np.float16), id="array of halves"),
        pytest.param(torch.from_numpy(RGBA).permute(2, 0, 1), id="tensor"),
        pytest.param((torch.from_numpy(RGBA) / 255).permute(2, 0, 1), id="tensor of floats"),
    ],
)
def test_four_channels(source: Any) -> None:
    assert near(as_array(source), on_white(RGBA))


def test_alpha_is_turned_with_the_picture() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    pixels = as_array(encoded(pillow.fromarray(RGBA), "PNG", exif=exif))
    assert near(pixels, np.rot90(on_white(RGBA), -1))


def test_frames_given_as_images_are_shown_on_white() -> None:
    image = pillow.fromarray(RGBA)
    with open_clip([(0, RGBA), (1, image), (2, encoded(image, "PNG"))]) as clip:
        assert all(near(frame, on_white(RGBA)) for frame in clip.read(range(3)))


# --- animations and videos -------------------------------------------------------------------------------------------

BOX = 8


def moving(count: int = 4) -> Iterator[pillow.Image]:
    """A black square on nothing that moves to the right by its own width."""
    for number in range(count):
        image = pillow.new("RGBA", (48, 32), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (number * BOX, 8, (number + 1) * BOX, 16))
        yield image


def shows_the_square_alone(frames: list[np.ndarray], tolerance: int = 40) -> bool:
    """Away from the square's edges, which some codecs blur."""
    dark = [frame.max(axis=2) < tolerance for frame in frames]
    light = [frame.min(axis=2) > 255 - tolerance for frame in frames]
    for number in range(len(frames)):
        square = np.zeros((32, 48), bool)
        square[10:14, number * BOX + 2 : (number + 1) * BOX - 2] = True
        around = np.zeros((32, 48), bool)
        around[6:18, max(0, number * BOX - 2) : (number + 1) * BOX + 2] = True
        if not (dark[number][square].all() and light[number][~around].all()):
            return False
    return True


@pytest.mark.parametrize("disposal", [0, 1])
@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_put_together_by_its_own_rules_and_then_shown_on_white(
    tmp_path: Path, format: str, disposal: int
) -> None:
    frames = list(moving())
    options: dict[str, Any] = {
        "GIF": {"disposal": 2},
        "WEBP": {"lossless": True, "minimize_size": bool(disposal)},
        "PNG": {"disposal": disposal, "blend": 0},
    }[format]
    path = tmp_path / "moving"
    frames[0].save(path, format, save_all=True, append_images=frames[1:], duration=100, **options)
    with open_clip(path) as clip:
        assert clip.num_frames == 4
        assert shows_the_square_alone(list(clip.read(range(4))))
    assert shows_the_square_alone([as_array(path)])


def test_what_earlier_frames_left_stays_under_transparent_places(tmp_path: Path) -> None:
    """A GIF whose frames are not disposed of."""
    frames = []
    for number in range(3):
        image = pillow.new("P", (30, 10), 1)
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.paste(0, (number * 10, 0, number * 10 + 10, 10))
        frames.append(image)
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=1, disposal=1, duration=100
    )
    with open_clip(tmp_path / "a.gif") as clip:
        columns = [frame[5, ::10, 0].tolist() for frame in clip.read(range(3))]
    assert columns == [[0, 255, 255], [0, 0, 255], [0, 0, 0]]


def test_a_webp_whose_frames_do_not_fill_it_is_white_around_them(tmp_path: Path) -> None:
    """Its header does not say that anything is transparent."""
    out = io.BytesIO()
    pillow.new("RGB", (4, 4)).save(out, "WEBP", lossless=True)
    picture = out.getvalue()[12:]
    place = bytes([1, 0, 0, 1, 0, 0, 3, 0, 0, 3, 0, 0, 100, 0, 0, 1])  # at (2, 2), 4 x 4, 100 ms, to be disposed of

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content

    parts = chunk(b"VP8X", bytes([2, 0, 0, 0, 9, 0, 0, 7, 0, 0])) + chunk(b"ANIM", bytes(6))
    path = tmp_path / "part.webp"
    path.write_bytes(chunk(b"RIFF", b"WEBP" + parts + 2 * chunk(b"ANMF", place + picture)))
    expected = np.full((8, 10, 3), 255, np.uint8)
    expected[2:6, 2:6] = 0
    with open_clip(path) as clip:
        assert all(np.array_equal(frame, expected) for frame in clip.read([0, 1]))
    assert np.array_equal(as_array(path), expected)


def write_video(path: Path, codec: str, format: str, count: int = 6, **options: str) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, format
        stream.codec_context.gop_size = 4
        if codec == "prores":
            stream.codec_context.profile = "4444"
        for number, image in enumerate(moving(count)):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgba")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame.reformat(format=format)))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "format", "options"),
    [
        ("vp9.webm", "libvpx-vp9", "yuva420p", {}),
        ("vp8.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
        ("qtrle.mov", "qtrle", "argb", {}),
        ("prores.mov", "prores", "yuva444p10le", {}),
        ("png.mov", "png", "rgba", {}),
        ("deep.mov", "png", "rgba64be", {}),
        ("grey.mov", "png", "ya8", {}),
        ("ffv1.mkv", "ffv1", "yuva420p", {}),
        ("ffv1-bgra.mkv", "ffv1", "bgra", {}),
        ("a.apng", "apng", "rgba", {}),
    ],
)
def test_a_video_with_alpha(tmp_path: Path, name: str, codec: str, format: str, options: dict[str, str]) -> None:
    path = write_video(tmp_path / name, codec, format, **options)
    with open_clip(path) as clip:
        frames = list(clip.read(range(6)))
        assert shows_the_square_alone(frames)
        for index in (5, 2):
            assert np.array_equal(next(clip.read([index])), frames[index])


def test_a_video_of_opaque_frames_in_a_format_with_alpha_keeps_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "opaque.mkv"
    pixels = np.random.default_rng(2).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuva420p"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuva420p")
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with open_clip(path) as clip:
        assert np.array_equal(next(clip.read([0])), expected)
