"""Digests of frames: what tells the engine's caches that two frames are the same.

A digest is SHA-256, cut to 16 bytes: callers of one server share the caches, and none may make a picture that is taken
for another's. Processors compute it faster than any other such function that Python has, and a tree of it, over leaves
of a MiB, in several threads.
"""

import hashlib
from collections.abc import Hashable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mossvl.media.clip import Picture
from mossvl.processing.crew import Work, in_order
from mossvl.processing.patches import patches_of
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.plan import MediumPlan

LEAF = 1 << 20
"""Bytes of a leaf of the tree."""
DIGEST_BYTES = 16


def frame_of(
    picture: Picture, plan: MediumPlan, layout: PatchLayout, scale: Hashable, threads: int = 1
) -> tuple[Tensor, bytes]:
    """A frame's uint8 patches (patches, 3 · patch_size²) and digest; with several threads, both at a time."""
    pixels = picture()
    both: tuple[Work[Any], Work[Any]] = (
        Work(partial(_of_picture, pixels, plan, layout, scale, threads)),
        Work(partial(patches_of, pixels, plan.height, plan.width, layout, threads)),
    )
    digest, patches = in_order(both, min(threads, len(both)))
    return patches, digest or digest_of(patches, layout.grid(plan.height, plan.width), scale, threads)


def frame_digest(picture: Picture, plan: MediumPlan, layout: PatchLayout, scale: Hashable, threads: int = 1) -> bytes:
    """A frame's digest alone."""
    pixels = picture()
    digest = _of_picture(pixels, plan, layout, scale, threads)
    return digest or frame_of(lambda: pixels, plan, layout, scale, threads)[1]


def digest_of(patches: Tensor, grid: tuple[int, int], scale: Hashable, threads: int = 1) -> bytes:
    """Return the digest of a frame by its patches, grid and normalisation."""
    return _digest((grid, scale), patches.numpy(), threads)


def _of_picture(
    pixels: NDArray[np.uint8], plan: MediumPlan, layout: PatchLayout, scale: Hashable, threads: int
) -> bytes | None:
    """The digest of a frame by its pixels as decoded; None if it is large, so that its patches are sooner hashed."""
    if pixels.shape[0] * pixels.shape[1] > 2 * plan.height * plan.width:
        return None
    return _digest((pixels.shape, (plan.height, plan.width), layout, scale), pixels, threads)


def _digest(meaning: Hashable, array: NDArray[Any], threads: int) -> bytes:
    """The digest of bytes that lie contiguously in memory; `meaning` says what they are, and how many."""
    data = array.reshape(-1).data
    whole = hashlib.sha256(repr(meaning).encode())
    leaves = (Work(partial(_leaf, data[start : start + LEAF])) for start in range(0, len(data), LEAF))
    for leaf in in_order(leaves, min(threads, -(-len(data) // LEAF))):
        whole.update(leaf)
    return whole.digest()[:DIGEST_BYTES]


def _leaf(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()
