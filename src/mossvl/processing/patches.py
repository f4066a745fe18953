"""From a decoded picture to uint8 patches, in horizontal and vertical strips if several threads may work on it.

NumPy cuts and copies here, in the thread that asks; PyTorch would start threads of its own for each of the crew's.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mossvl.media.clip import Pixels
from mossvl.processing.crew import Work, in_order
from mossvl.processing.pixels import PatchLayout, resize
from mossvl.processing.plan import MediumPlan

STRIP_BYTES = 1 << 19
"""Least bytes of a strip: less is done sooner than a thread begins."""


def picture_bytes(plan: MediumPlan) -> int:
    """Bytes of one picture of a medium, as it is decoded and as it is cut."""
    return 3 * (plan.source.height * plan.source.width + plan.height * plan.width)


def patches_of(pixels: Pixels, height: int, width: int, layout: PatchLayout, threads: int = 1) -> Tensor:
    """uint8 (H, W, 3) → uint8 patches (patches, 3 · patch_size²) of the picture of `height` × `width` pixels."""
    picture = resized(torch.from_numpy(pixels).permute(2, 0, 1), height, width, threads)
    patches = torch.empty(layout.blocks(picture).shape[1:], dtype=torch.uint8)  # (block rows, …)

    def cut(start: int, stop: int) -> None:
        np.copyto(patches[start:stop].numpy(), layout.blocks(picture)[0, start:stop].numpy())

    _in_strips(cut, len(patches), picture.nbytes, threads)
    return patches.view(-1, 3 * layout.patch_size**2)


def resized(picture: Tensor, height: int, width: int, threads: int = 1) -> Tensor:
    """As `resize`, to the bit: it resizes rows, then columns, to uint8, and no row or column depends on another."""
    rows, columns = picture.shape[1:]
    if threads == 1 or picture.nbytes < 2 * STRIP_BYTES or not _separates():
        return resize(picture, height, width)
    across = picture if columns == width else torch.empty((3, rows, width), dtype=torch.uint8)
    whole = across if rows == height else torch.empty((3, height, width), dtype=torch.uint8)

    def resize_rows(start: int, stop: int) -> None:
        np.copyto(across[:, start:stop].numpy(), resize(picture[:, start:stop], stop - start, width).numpy())

    def resize_columns(start: int, stop: int) -> None:
        strip = torch.from_numpy(np.ascontiguousarray(across[:, :, start:stop].numpy()))
        np.copyto(whole[:, :, start:stop].numpy(), resize(strip, height, stop - start).numpy())

    if across is not picture:
        _in_strips(resize_rows, rows, picture.nbytes, threads)
    if whole is not across:
        _in_strips(resize_columns, width, across.nbytes, threads)
    return whole


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
