"""The memory of Pillow images, through the Arrow C data interface.

Pillow copies pixels out (`tobytes`, `numpy.asarray`) while it holds the GIL, so that threads do so one after the other.
NumPy copies from the image's own memory without the GIL.
"""

import ctypes

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image as pillow

from mossvl.media.clip import Pixels

_SHARES = tuple(map(int, PIL.__version__.split(".")[:2])) >= (11, 3)
"""Pillow has the interface since version 11.2, which never frees what it has shared."""


class _Schema(ctypes.Structure):
    """The first fields of `ArrowSchema`."""


class _Array(ctypes.Structure):
    """The first fields of `ArrowArray`."""


_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
]
_Array._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Memory:
    """An image's memory as NumPy takes it; the array keeps this object, and this object the image's memory."""

    def __init__(self, owner: object, address: int, shape: tuple[int, ...]) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": np.dtype(np.uint32).str,
            "shape": shape,
            "data": (address, True),
        }


def rgb_pixels(image: pillow.Image) -> Pixels | None:
    """Copy an RGB image to a new array uint8 (height, width, 3), without the GIL.

    Returns None for an image of another mode, and for one that Pillow cannot share: it shares what lies in one block
    of memory, by default up to 16 MiB.
    """
    if (shared := _shared(image)) is None:
        return None
    height, width = shared.shape
    pixels = np.empty((height, width, 3), np.uint8)
    # NumPy copies words in order: each brings a byte too many, which the next one overwrites. (Three times as fast as
    # copying one channel after the other.)
    words = np.ndarray((height * width - 1,), np.uint32, pixels, strides=(3,))
    np.copyto(words, shared.reshape(-1)[:-1])
    pixels[-1, -1] = shared[-1:, -1:].view(np.uint8)[0, :3]
    return pixels


def _shared(image: pillow.Image) -> NDArray[np.uint32] | None:
    """An RGB image's own memory: words (height, width) of four bytes a pixel, the last without a meaning; read-only."""
    if not _SHARES or image.mode != "RGB" or not all(image.size):
        return None
    try:
        schema, array = image.__arrow_c_array__()
    except ValueError:  # It lies in several blocks.
        return None
    form = _Schema.from_address(_pointer(schema, b"arrow_schema"))
    held = _Array.from_address(_pointer(array, b"arrow_array"))
    if form.format != b"+w:4" or form.children[0].contents.format != b"C":
        return None
    values = held.children[0].contents
    if (held.length, held.offset, values.offset) != (image.width * image.height, 0, 0):
        return None
    return np.asarray(_Memory(array, values.buffers[1], image.size[::-1]))
