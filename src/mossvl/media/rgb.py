"""Conversion of pixels to RGB, transparency composited on white."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow
from torch import Tensor

from mossvl.errors import MediaError
from mossvl.media.arrow import rgb_pixels

Pixels = NDArray[np.uint8]


def on_white(colours: pillow.Image, alpha: pillow.Image) -> pillow.Image:
    """Composite an RGB image on white; `alpha` is of mode L."""
    white = pillow.new("RGB", colours.size, "white")
    white.paste(colours, mask=alpha)
    return white


def frame_on_white(colours: Pixels, alpha: Pixels) -> Pixels:
    """Composite `colours` (height, width, 3) with `alpha` (height, width) on white."""
    images = [pillow.fromarray(np.ascontiguousarray(pixels)) for pixels in (colours, alpha)]
    return np.array(on_white(*images))


def from_pillow(image: pillow.Image) -> Pixels:
    """Convert an image of any mode to (height, width, 3), maybe read-only; deep grey, which Pillow clips, to 8 bits."""
    if image.mode.startswith("I"):
        return _from_deep_grey(image)
    if image.mode == "F":
        return _from_float_grey(np.asarray(image))
    if not image.has_transparency_data:
        image = image if image.mode == "RGB" else image.convert("RGB")
        pixels = rgb_pixels(image)
        return np.asarray(image) if pixels is None else pixels
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    return np.array(on_white(image.convert("RGB"), image.getchannel("A")))


def _from_deep_grey(image: pillow.Image) -> Pixels:
    values = np.asarray(image).astype(np.int64)
    grey = ((values.clip(0, 65535) + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return _expand(grey)


def _from_float_grey(values: NDArray[np.float32]) -> Pixels:
    """Scale from [0, 1], or from [0, 255] if any value is above 1. NaN becomes black."""
    largest = np.max(values, where=np.isfinite(values), initial=0)
    scale = 255 if largest <= 1 else 1
    return _expand((np.nan_to_num(values, nan=0).clip(0, 255 / scale) * scale).round().astype(np.uint8))


def array_of(source: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Return an array (H, W) or (H, W, 3|4), a view if possible, of an array or of a tensor (1|3|4, H, W), (H, W, 3).

    Raises:
        MediaError: another shape.
    """
    array = _array_of_tensor(source) if isinstance(source, Tensor) else source
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise MediaError(f"an array of shape {array.shape} is not an image; give (H, W), (H, W, 3) or (H, W, 4)")
    return array


def _array_of_tensor(tensor: Tensor) -> NDArray[Any]:
    channels_first = tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4)
    if not channels_first and not (tensor.ndim == 3 and tensor.shape[2] == 3):
        raise MediaError(f"a tensor of shape {tuple(tensor.shape)} is not an image; give (1|3|4, H, W) or (H, W, 3)")
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16.
    array: NDArray[Any] = (tensor.permute(1, 2, 0) if channels_first else tensor).detach().cpu().numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array


def from_array(array: NDArray[Any]) -> Pixels:
    """Convert an array (H, W) or (H, W, 3|4), uint8 or floats in [0, 1], to a new array (H, W, 3).

    Raises:
        MediaError: another dtype, or floats outside [0, 1].
    """
    transparent = array.ndim == 3 and array.shape[2] == 4
    if np.issubdtype(array.dtype, np.floating):
        # Written so that NaN fails too.
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            raise MediaError("an image of floats has values outside [0, 1]; scale them, or give uint8 in [0, 255]")
        array = array.astype(np.float32)
        if transparent:
            array, transparent = array[:, :, :3] * array[:, :, 3:] + (1 - array[:, :, 3:]), False
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"an image of {array.dtype} cannot be used; give uint8 in [0, 255] or floats in [0, 1]")
    if transparent and array.size:
        return frame_on_white(array[:, :, :3], array[:, :, 3])
    return _expand(array) if array.ndim == 2 else array[:, :, :3].copy()


def _expand(grey: Pixels) -> Pixels:
    return np.repeat(grey[:, :, None], 3, axis=2)
