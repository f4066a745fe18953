"""One image: a file, URL, bytes, Pillow image, array or tensor, decoded to RGB."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pillow
from torch import Tensor

from mossvl.errors import MediaError
from mossvl.media import rgb
from mossvl.media.fetch import is_remote, local_file, source_name
from mossvl.media.formats import check_pixels, decode_pillow, open_pillow, pillow_size
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits

_LOCKS = [Lock() for _ in range(61)]
"""For Pillow images by their identity: Pillow decodes a lazily opened image at first use, one thread at a time."""
_ACCEPTED = "a path, a URL, bytes, a Pillow image, an array (H, W), (H, W, 3|4) or a tensor (1|3|4, H, W), (H, W, 3)"


class Image:
    """An image of known size whose pixels are decoded on demand.

    It holds no open file. Use it as a context manager, or `close` it, to free downloaded bytes.

    Attributes:
        height, width: pixels, after the EXIF orientation.
    """

    def __init__(self, name: str, size: tuple[int, int], load: Callable[[], NDArray[np.uint8]]) -> None:
        self.name = name
        self.height, self.width = size
        self._load: Callable[[], NDArray[np.uint8]] | None = load

    def array(self) -> NDArray[np.uint8]:
        """Decode, in any thread, to an array uint8 (height, width, 3), RGB, of its own; it may be read-only.

        Raises:
            MediaError: the image is broken or closed.
        """
        if self._load is None:
            raise MediaError(f"{self.name}: the image was closed; open it again")
        return self._load()

    def load(self) -> Tensor:
        """Decode to a new tensor uint8 (3, height, width), RGB. Raises MediaError if the image is broken or closed."""
        return torch.from_numpy(np.array(self.array().transpose(2, 0, 1), order="C"))

    def close(self) -> None:
        self._load = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_image(source: Any, limits: MediaLimits = DEFAULT_LIMITS) -> Tensor:
    """Decode an image to RGB.

    Grey, palette and CMYK images are converted, 16-bit grey is scaled to 8 bits, transparency is composited on white,
    the EXIF orientation is applied; an animation gives its first frame.

    Args:
        source: a path, a URL (`http(s):`, `data:`, `file:`), bytes, a Pillow image, an array (H, W), (H, W, 3) or
            (H, W, 4), or a tensor (1|3|4, H, W) or (H, W, 3); arrays and tensors are uint8, or floats in [0, 1].

    Returns:
        uint8 tensor (3, height, width).

    Raises:
        MediaError: the image is missing, broken, not an image, or larger than `limits.image_pixels`.
    """
    return open_image(source, limits).load()


def image_size(source: Any, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return (height, width) in pixels after the EXIF orientation, from the header alone. Raises as `load_image`."""
    image = open_image(source, limits)
    return image.height, image.width


def open_image(source: Any, limits: MediaLimits = DEFAULT_LIMITS) -> Image:
    """Open an image and read its header. Arguments and errors are those of `load_image`."""
    if isinstance(source, Image):
        return source
    if isinstance(source, (np.ndarray, Tensor)):
        array = rgb.array_of(source)
        check_pixels("the array", (array.shape[0], array.shape[1]), limits)
        load = partial(rgb.from_array, array) if array.dtype == np.uint8 else rgb.from_array(array).copy
        return Image("the array", (array.shape[0], array.shape[1]), load)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_encoded("image bytes", bytes(source), limits)
    if isinstance(source, (str, Path)):
        with local_file(source, limits) as path:
            return _open_encoded(source_name(source), path.read_bytes() if is_remote(source) else path, limits)
    if isinstance(source, pillow.Image):
        name = "the Pillow image"
        return Image(name, pillow_size(name, source, limits), partial(_decode_given, name, source, limits))
    raise MediaError(f"an image of type {type(source).__name__} cannot be used; give {_ACCEPTED}")


def _decode_given(name: str, image: pillow.Image, limits: MediaLimits) -> NDArray[np.uint8]:
    with _LOCKS[id(image) % len(_LOCKS)]:
        return decode_pillow(name, image, limits)


def _open_encoded(name: str, data: bytes | Path, limits: MediaLimits) -> Image:
    def load() -> NDArray[np.uint8]:
        with open_pillow(name, data, limits) as image:
            return decode_pillow(name, image, limits)

    with open_pillow(name, data, limits) as image:
        return Image(name, pillow_size(name, image, limits), load)
