"""Pixels read from the own memory of Pillow images."""

import gc
from random import Random

import numpy as np
import pytest
from PIL import Image

from mossvl.media import arrow
from mossvl.media.arrow import rgb_pixels


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.skipif(not arrow._SHARES, reason="this version of Pillow shares no memory")
@pytest.mark.parametrize("seed", range(20))
def test_pixels_are_those_of_the_image(seed):
    rng = Random(seed)
    image = noise(rng.randint(1, 300), rng.randint(1, 300), seed)
    made = rng.choice(
        (
            lambda: image,
            lambda: image.crop((0, 0, (image.width + 1) // 2, image.height)),
            lambda: image.transpose(Image.Transpose.ROTATE_90),
            lambda: image.convert("RGBA").convert("RGB"),
        )
    )()
    pixels = rgb_pixels(made)
    assert pixels is not None and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(made))


@pytest.mark.skipif(not arrow._SHARES, reason="this version of Pillow shares no memory")
def test_an_image_without_rows_has_no_pixels_to_share():
    assert rgb_pixels(Image.new("RGB", (0, 5))) is None and rgb_pixels(Image.new("RGB", (5, 0))) is None


@pytest.mark.skipif(not arrow._SHARES, reason="this version of Pillow shares no memory")
def test_memory_stays_while_an_array_shows_it():
    shared = arrow._shared(Image.new("RGB", (300, 200), (1, 2, 3)))
    gc.collect()
    others = [Image.new("RGB", (300, 200), "white") for _ in range(20)]
    assert shared.view(np.uint8).reshape(200, 300, 4)[:, :, :3].mean((0, 1)).tolist() == [1, 2, 3] and others


def test_pixels_are_a_copy():
    image = Image.new("RGB", (3, 2))
    pixels = rgb_pixels(image)
    if pixels is not None:
        pixels[:] = 9
    assert image.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "F", "P"])
def test_only_rgb_images_are_read_so(mode):
    assert rgb_pixels(Image.new(mode, (3, 2))) is None


def test_an_image_in_several_blocks_is_left_to_pillow():
    assert rgb_pixels(Image.new("RGB", (4096, 2048))) is None


def test_a_version_that_leaks_is_left_to_pillow(monkeypatch):
    monkeypatch.setattr(arrow, "_SHARES", False)
    assert rgb_pixels(noise(3, 5)) is None
