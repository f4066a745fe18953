"""Queries on their way to a replica: what arrives is what was given, and pixels are not copied into the message."""

import io
import threading
from multiprocessing import Pipe

import numpy as np
import pytest
import torch
from PIL import Image

from mossvl.errors import MediaError
from mossvl.media.image import load_image
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits
from mossvl.replicas.baggage import pack, receive, send, unpack


def travelled(given, limits=DEFAULT_LIMITS):
    """What arrives at the other end of a pipe, and the size of its pickled form in bytes."""
    body, buffers = pack(given, limits)
    here, there = Pipe()
    with here, there:
        thread = threading.Thread(target=send, args=(here, "ask", 3, body, buffers))
        thread.start()
        kind, number, parts = receive(there)
        thread.join()
    assert (kind, number) == ("ask", 3)
    return unpack(parts), len(body)


def noise(*shape):
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("image", [noise(700, 900, 3), noise(5, 7), np.float32(noise(9, 9, 3) / 255), noise(0, 4, 3)])
def test_arrays_arrive_as_they_are(image):
    arrived, body = travelled({"images": [image]})
    assert arrived["images"][0].dtype == image.dtype and np.array_equal(arrived["images"][0], image)
    assert body < 1000


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_tensors_arrive_as_they_are_also_views(dtype):
    tensor = torch.from_numpy(noise(3, 80, 90)).to(dtype).permute(1, 2, 0)[::2]
    arrived, body = travelled([tensor])
    assert arrived[0].dtype == dtype and torch.equal(arrived[0], tensor) and body < 1000


def turned():
    """A Pillow image opened from a JPEG, with an EXIF orientation."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(60, 80, 3)).save(file, "JPEG", exif=exif)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.fromarray(noise(60, 80, 3)),
        lambda: Image.fromarray(noise(60, 80, 4)),
        lambda: Image.fromarray(noise(60, 80)).convert("P"),
        lambda: Image.fromarray(np.uint16(noise(6, 8)) * 257),
        turned,
    ],
    ids=["RGB", "RGBA", "palette", "16 bits", "JPEG"],
)
def test_pillow_images_arrive_as_the_pixels_that_the_model_would_see(make):
    arrived, body = travelled(make())
    assert torch.equal(load_image(arrived), load_image(make())) and body < 1000


def test_an_image_that_is_asked_about_twice_travels_once():
    image = Image.fromarray(noise(300, 400, 3))
    _, buffers = pack([image, image], DEFAULT_LIMITS)
    assert [buffer.nbytes for buffer in buffers] == [300 * 400 * 3]


def test_a_broken_or_too_large_pillow_image_is_an_error_of_its_query():
    file = io.BytesIO()
    Image.fromarray(noise(200, 200, 3)).save(file, "PNG")
    with pytest.raises(MediaError, match="the Pillow image"):
        pack(Image.open(io.BytesIO(file.getvalue()[:2000])), DEFAULT_LIMITS)
    with pytest.raises(MediaError, match="200 x 200 pixels, more than the 39999 allowed"):
        pack(Image.open(file), MediaLimits(image_pixels=39_999))


def test_a_message_without_a_query_has_a_head_only():
    here, there = Pipe()
    with here, there:
        send(here, "cancel", 8)
        assert receive(there) == ("cancel", 8, [])
