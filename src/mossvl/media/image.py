"""One image: from a file, URL, bytes, Pillow image, array or tensor to RGB."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps
from PIL import Image as pillow
from torch import Tensor

from mossvl.errors import MediaError
from mossvl.media.fetch import is_remote, local_file, source_name
from mossvl.media.limits import DEFAULT_LIMITS, MediaLimits

# What is looked for in a file. Formats that Pillow hands to another program (EPS, WMF), that hold no picture by
# themselves, or that have no signature and so take anything for theirs, are left out.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "QOI")
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width.
_ACCEPTED = "a path, a URL, bytes, a Pillow image, an array (H, W), (H, W, 3|4) or a tensor (1|3|4, H, W), (H, W, 3)"


class Image:
    """An image whose size is known; its pixels are decoded when asked for.

    No file is held open between the two. Use it as a context manager, or `close` it, to let go of downloaded bytes.

    Attributes:
        height, width: pixels, after the EXIF orientation.
    """

    def __init__(self, name: str, size: tuple[int, int], load: Callable[[], NDArray[np.uint8]]) -> None:
        self.name = name
        self.height, self.width = size
        self._load: Callable[[], NDArray[np.uint8]] | None = load

    def array(self) -> NDArray[np.uint8]:
        """Pixels as uint8 (height, width, 3), RGB. Raises MediaError if they cannot be decoded."""
        if self._load is None:
            raise MediaError(f"{self.name}: the image was closed; open it again")
        return self._load()

    def load(self) -> Tensor:
        """Pixels as uint8 (3, height, width), RGB, in memory of their own. Raises MediaError if undecodable."""
        return torch.from_numpy(np.ascontiguousarray(self.array().transpose(2, 0, 1)))

    def close(self) -> None:
        self._load = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_image(source: Any, limits: MediaLimits = DEFAULT_LIMITS) -> Tensor:
    """Decode an image to RGB.

    Grey and palette images expand, alpha is dropped (not blended), 16-bit grey is scaled to 8, CMYK is converted, the
    EXIF orientation is applied; of an animation the first frame is taken.

    Args:
        source: a path, a URL (`http(s):`, `data:`, `file:`), bytes, a Pillow image, an array (H, W), (H, W, 3) or
            (H, W, 4), or a tensor (1|3|4, H, W) or (H, W, 3); arrays and tensors are uint8, or floats in [0, 1].

    Returns:
        uint8 tensor (3, height, width).

    Raises:
        MediaError: missing, broken, not an image, or larger than `limits.image_pixels`.
    """
    return open_image(source, limits).load()


def image_size(source: Any, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """(height, width) in pixels after the EXIF orientation, from the header alone. Raises as `load_image`."""
    image = open_image(source, limits)
    return image.height, image.width


def open_image(source: Any, limits: MediaLimits = DEFAULT_LIMITS) -> Image:
    """Read an image's header; arguments and errors as for `load_image`."""
    if isinstance(source, Image):
        return source
    if isinstance(source, (np.ndarray, Tensor)):
        array = _from_array(source) if isinstance(source, np.ndarray) else _from_tensor(source)
        check_pixels("the array", (array.shape[0], array.shape[1]), limits)
        return Image("the array", (array.shape[0], array.shape[1]), lambda: array)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_encoded("image bytes", bytes(source), limits)
    if isinstance(source, (str, Path)):
        with local_file(source, limits) as path:
            return _open_encoded(source_name(source), path.read_bytes() if is_remote(source) else path, limits)
    if isinstance(source, pillow.Image):
        with _pillow_errors("the Pillow image"):
            size = _oriented_size(source)
        check_pixels("the Pillow image", size, limits)
        return Image("the Pillow image", size, lambda: decode_pillow("the Pillow image", source))
    raise MediaError(f"an image of type {type(source).__name__} cannot be used; give {_ACCEPTED}")


def _open_encoded(name: str, data: bytes | Path, limits: MediaLimits) -> Image:
    def load() -> NDArray[np.uint8]:
        with open_pillow(name, data) as image:
            return decode_pillow(name, image)

    with open_pillow(name, data) as image, _pillow_errors(name):
        size = _oriented_size(image)
    check_pixels(name, size, limits)
    return Image(name, size, load)


def check_pixels(name: str, size: tuple[int, int], limits: MediaLimits) -> None:
    height, width = size
    if height * width > limits.image_pixels:
        raise MediaError(
            f"{name}: {width} x {height} pixels, more than the {limits.image_pixels} allowed; "
            "use a smaller image or raise MediaLimits.image_pixels"
        )
    if height * width == 0:
        raise MediaError(f"{name}: {width} x {height} pixels; expected an image with at least one")


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Whatever Pillow raises over broken data (nearly any type of exception) becomes one MediaError."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{name}: broken or truncated image ({error or type(error).__name__})") from error


@contextmanager
def open_pillow(name: str, data: bytes | Path) -> Iterator[pillow.Image]:
    """The image behind `data`, header read, pixels not yet; closed at the end.

    This goes through Pillow's registry of formats instead of `Image.open`, whose own limit on pixels is a global of the
    process: below ours for errors, and with a warning far below that.
    """
    pillow.init()
    with (
        _pillow_errors(name),
        io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file,
        _identify(name, file) as image,
    ):
        yield image


def _identify(name: str, file: IO[bytes]) -> pillow.Image:
    start = file.read(16)
    for format_name in _FORMATS:
        factory, accepts = pillow.OPEN.get(format_name, (None, None))
        # An answer of type str says that the format is known but that this build of Pillow lacks its decoder.
        if factory is None or accepts is None or accepts(start) is not True:
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # Not this format after all, or not enough of it.
    raise MediaError(
        f"{name}: not an image that can be read; expected a complete file of one of {', '.join(_FORMATS)}; "
        "if it is a video, give it as one"
    )


def _oriented_size(image: pillow.Image) -> tuple[int, int]:
    width, height = image.size
    # Pillow swaps the sides of a TIFF by itself. A PNG's getexif would decode the pixels to look for a chunk that may
    # follow them; like browsers, we take no orientation from there.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return height, width
    turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if turned else (height, width)


def decode_pillow(name: str, image: pillow.Image) -> NDArray[np.uint8]:
    with _pillow_errors(name):
        has_orientation = image.format != "PNG" or "exif" in image.info
        image.load()
        oriented = ImageOps.exif_transpose(image) if has_orientation else image
        return np.array(_to_rgb(oriented))


def _to_rgb(image: pillow.Image) -> pillow.Image | NDArray[np.uint8]:
    """RGB of any mode. Pillow clips what is deeper than 8 bits, where we scale."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return _expand(((grey + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return _expand((values * (255 if values.max() <= 1 else 1)).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return image.convert("RGB")


def _expand(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_tensor(tensor: Tensor) -> NDArray[np.uint8]:
    channels_first = tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4)
    if not channels_first and not (tensor.ndim == 3 and tensor.shape[2] == 3):
        raise MediaError(f"a tensor of shape {tuple(tensor.shape)} is not an image; give (1|3|4, H, W) or (H, W, 3)")
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy knows no bfloat16.
    array = (tensor.permute(1, 2, 0) if channels_first else tensor).detach().cpu().numpy()
    return _from_array(array[:, :, 0] if array.shape[2] == 1 else array)


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), of memory of its own."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise MediaError(f"an array of shape {array.shape} is not an image; give (H, W), (H, W, 3) or (H, W, 4)")
    if np.issubdtype(array.dtype, np.floating):
        # NaN fails this comparison too.
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            raise MediaError("an image of floats has values outside [0, 1]; scale them, or give uint8 in [0, 255]")
        array = (array.astype(np.float32) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"an image of {array.dtype} cannot be used; give uint8 in [0, 255] or floats in [0, 1]")
    return _expand(array) if array.ndim == 2 else array[:, :, :3].copy()
