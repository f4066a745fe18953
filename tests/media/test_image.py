import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from mossvl.errors import MediaError
from mossvl.media.image import image_size, load_image, open_image
from mossvl.media.limits import MediaLimits

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: pillow.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def as_array(source: Any) -> np.ndarray:
    return load_image(source).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_come_out_as_they_went_in(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.array_equal(as_array(encoded(pillow.fromarray(PIXELS), format, **options)), PIXELS)


def test_golden_photo_equals_pillow(golden: Path) -> None:
    path = golden / "media" / "photo.jpg"
    with pillow.open(path) as image:
        assert np.array_equal(as_array(path), np.asarray(image.convert("RGB")))


def test_the_tensor_is_contiguous_and_uint8() -> None:
    tensor = load_image(PIXELS)
    assert tensor.dtype == torch.uint8 and tensor.is_contiguous() and tensor.shape == (3, 6, 9)


def test_one_bit_becomes_black_and_white() -> None:
    image = pillow.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert as_array(encoded(image, "PNG"))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(format: str) -> None:
    image = pillow.fromarray(np.array([[0, 257 * 100, 32768, 65535]], np.uint16))
    assert as_array(encoded(image, format))[0, :, 0].tolist() == [0, 100, 128, 255]


def test_float_grey_is_scaled() -> None:
    assert as_array(pillow.fromarray(np.array([[0, 0.5, 1]], np.float32)))[0, :, 2].tolist() == [0, 128, 255]


def test_cmyk_is_converted() -> None:
    image = pillow.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = as_array(encoded(image, "TIFF"))[0, 0].tolist()
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied_to_pixels_and_size(format: str, orientation: int) -> None:
    turn: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: np.rot90,
    }
    exif = pillow.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 250
    data = encoded(pillow.fromarray(stored), format, exif=exif)
    expected = turn[orientation](stored)
    assert (as_array(data) > 125).tolist() == (expected > 125).tolist()
    assert image_size(data) == expected.shape[:2]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [pillow.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert as_array(data)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(PIXELS, id="array"),
        pytest.param(np.dstack([PIXELS, np.full((6, 9), 255, np.uint8)]), id="array with opaque alpha"),
        pytest.param(np.asfortranarray(PIXELS), id="array of another order"),
        pytest.param(torch.from_numpy(PIXELS), id="tensor, channels last"),
        pytest.param(torch.from_numpy(PIXELS).permute(2, 0, 1), id="tensor, channels first"),
        pytest.param(PIXELS / 255, id="floats"),
        pytest.param((torch.from_numpy(PIXELS) / 255).permute(2, 0, 1), id="tensor of floats"),
        pytest.param(pillow.fromarray(PIXELS), id="pillow"),
        pytest.param(encoded(pillow.fromarray(PIXELS), "PNG"), id="bytes"),
    ],
)
def test_every_kind_of_source_gives_the_same_pixels(source: Any) -> None:
    assert np.array_equal(as_array(source), PIXELS)


@pytest.mark.parametrize("source", [PIXELS[..., 0], torch.from_numpy(PIXELS[..., 0])[None]])
def test_a_single_channel_is_grey(source: Any) -> None:
    assert np.array_equal(as_array(source), np.repeat(PIXELS[..., :1], 3, axis=2))


def test_the_result_does_not_share_memory_with_the_source() -> None:
    array = PIXELS.copy()
    tensor = load_image(array)
    array[:] = 0
    assert tensor.any()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(np.zeros((4, 4, 2), np.uint8), id="two channels"),
        pytest.param(np.zeros(4, np.uint8), id="one dimension"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), id="no pixels"),
        pytest.param(np.zeros((4, 4, 3), np.int64), id="int64"),
        pytest.param(np.full((4, 4, 3), 2.0), id="floats above 1"),
        pytest.param(np.full((4, 4, 3), np.nan), id="NaN"),
        pytest.param(torch.zeros(2, 2), id="tensor without channels"),
        pytest.param(12, id="number"),
        pytest.param(b"", id="no bytes"),
        pytest.param(b"not an image", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="signature alone"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="a format that runs a program"),
    ],
)
def test_what_is_no_image_is_a_media_error(source: Any) -> None:
    with pytest.raises(MediaError):
        load_image(source)


@pytest.mark.parametrize("name", ["photo.jpg", "shapes.png"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_a_truncated_image_is_a_media_error_that_names_the_file(
    tmp_path: Path, golden: Path, name: str, part: float
) -> None:
    data = (golden / "media" / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(MediaError, match=name):
        load_image(path)


def test_the_size_is_read_without_decoding(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes((golden / "media" / "photo.jpg").read_bytes()[:2000])
    assert image_size(path) == (480, 640)


def test_an_image_over_the_limit_is_refused_before_decoding(golden: Path) -> None:
    with pytest.raises(MediaError, match="640 x 480 pixels, more than the 300000"):
        open_image(golden / "media" / "photo.jpg", MediaLimits(image_pixels=300_000))


def test_pillows_own_limits_do_not_apply() -> None:
    data = encoded(pillow.new("1", (15_000, 12_200)), "PNG")  # Pillow warns above 89 and raises above 179 megapixels.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(data) == (12_200, 15_000)


def test_no_file_stays_open(golden: Path, open_files: Callable[[Path], list[str]]) -> None:
    image = open_image(golden / "media" / "photo.jpg")
    image.load()
    assert open_files(golden) == []


def test_a_closed_image_cannot_be_loaded() -> None:
    with open_image(PIXELS) as image:
        pass
    with pytest.raises(MediaError, match="closed"):
        image.load()
