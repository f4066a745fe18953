"""From a decoded picture to uint8 patches, in horizontal and vertical strips if several threads may work on it.

NumPy cuts and copies here. PyTorch would start threads of its own for each of the crew's, and hands the GIL over at
every operation, even at those that copy nothing.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mossvl.media.clip import Pixels
from mossvl.processing.crew import Work, in_order
from mossvl.processing.pixels import PATCH_ORDER, PatchLayout, resize
from mossvl.processing.plan import MediumPlan

STRIP_BYTES = 1 << 19
"""Least bytes of a strip: less is done sooner than a thread begins."""
Planes = NDArray[np.uint8]
"""A picture (3, height, width); a view of pixels (height, width, 3), or planes of its own."""


def picture_bytes(plan: MediumPlan) -> int:
    """Bytes of one picture of a medium, as it is decoded and as it is cut."""
    return 3 * (plan.source.height * plan.source.width + plan.height * plan.width)


def patches_of(pixels: Pixels, height: int, width: int, layout: PatchLayout, threads: int = 1) -> Tensor:
    """uint8 (H, W, 3) → uint8 patches (patches, 3 · patch_size²) of the picture of `height` × `width` pixels."""
    blocks = _blocks(resized(pixels.transpose(2, 0, 1), height, width, threads), layout)
    patches = np.empty(blocks.shape, np.uint8)

    def cut(start: int, stop: int) -> None:
        np.copyto(patches[start:stop], blocks[start:stop])

    _in_strips(cut, len(patches), patches.nbytes, threads)
    return torch.from_numpy(patches.reshape(-1, 3 * layout.patch_size**2))


def _blocks(planes: Planes, layout: PatchLayout) -> Planes:
    """(3, height, width) → a view (rows, columns of merge blocks, merge, merge, 3, patch_size, patch_size)."""
    return planes.reshape(layout.split(*planes.shape)).transpose(PATCH_ORDER)


def resized(planes: Planes, height: int, width: int, threads: int = 1) -> Planes:
    """As `resize`, to the bit: it resizes rows, then columns, to uint8, and no row or column depends on another."""
    rows, columns = planes.shape[1:]
    if (rows, columns) == (height, width):
        return planes
    if threads == 1 or planes.nbytes < 2 * STRIP_BYTES or not _separates():
        return _resized(planes, height, width)
    across = planes if columns == width else np.empty((3, rows, width), np.uint8)
    whole = across if rows == height else np.empty((3, height, width), np.uint8)

    def resize_rows(start: int, stop: int) -> None:
        np.copyto(across[:, start:stop], _resized(planes[:, start:stop], stop - start, width))

    def resize_columns(start: int, stop: int) -> None:
        strip = np.ascontiguousarray(across[:, :, start:stop])
        np.copyto(whole[:, :, start:stop], _resized(strip, height, stop - start))

    if across is not planes:
        _in_strips(resize_rows, rows, planes.nbytes, threads)
    if whole is not across:
        _in_strips(resize_columns, width, across.nbytes, threads)
    return whole


def _resized(planes: Planes, height: int, width: int) -> Planes:
    # PyTorch takes no read-only memory; a copy keeps the order in which the pixels lie.
    given = planes if planes.flags.writeable else planes.copy("K")
    return resize(torch.from_numpy(given), height, width).numpy()


def _separates() -> bool:
    """Whether PyTorch resizes in two passes of whole numbers: so do its vector instructions, not its plain code."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _in_strips(work: Callable[[int, int], None], length: int, size: int, threads: int) -> None:
    """Do work on `range(length)` in parts, of `size` bytes together."""
    count = min(threads, length, max(1, size // STRIP_BYTES))
    edges = [length * place // count for place in range(count + 1)]
    parts = (Work(partial(work, *edges[place : place + 2])) for place in range(count))
    for _ in in_order(parts, count):
        pass
