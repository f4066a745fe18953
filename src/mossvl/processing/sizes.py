"""Sizes of resized pictures, in pixels: sides are multiples of a merge block's, areas stay within budgets.

The rules are those of the published processors.
"""

import math
from collections.abc import Sequence

from mossvl.errors import MediaError

MAX_ASPECT_RATIO = 200


def _check_aspect(height: int, width: int) -> None:
    if not 0 < max(height, width) <= MAX_ASPECT_RATIO * min(height, width):
        raise MediaError(
            f"a picture of {width} × {height} pixels: a side may be at most {MAX_ASPECT_RATIO} times the other; crop it"
        )


def _rounded(length: int, factor: int) -> int:
    return max(factor, round(length / factor) * factor)


def _shrunk(height: int, width: int, factor: int, ratio: float) -> tuple[int, int]:
    """Sides divided by `ratio`, rounded down to multiples of `factor`, at least `factor`."""
    return (
        max(factor, math.floor(height / ratio / factor) * factor),
        max(factor, math.floor(width / ratio / factor) * factor),
    )


def _grown(height: int, width: int, factor: int, ratio: float) -> tuple[int, int]:
    """Sides times `ratio`, rounded up to multiples of `factor`."""
    return math.ceil(height * ratio / factor) * factor, math.ceil(width * ratio / factor) * factor


def image_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width, multiples of `factor`, to which an image is resized.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    _check_aspect(height, width)
    rows, columns = _rounded(height, factor), _rounded(width, factor)
    if rows * columns > max_pixels:
        return _shrunk(height, width, factor, math.sqrt(height * width / max_pixels))
    if rows * columns < min_pixels:
        return _grown(height, width, factor, math.sqrt(min_pixels / (height * width)))
    return rows, columns


def image_budgets(sizes: Sequence[tuple[int, int]], budget: int, bounds: Sequence[tuple[int, int]]) -> list[int]:
    """The largest area of each image: several images of one prompt share `budget` in proportion to their areas.

    Args:
        sizes: height and width of each image.
        bounds: `min_pixels` and `max_pixels` of each image.
    """
    if len(sizes) < 2:
        return [most for _, most in bounds]
    total = sum(height * width for height, width in sizes)
    return [
        min(max(int(budget * (height * width) / total), least), most)
        for (height, width), (least, most) in zip(sizes, bounds, strict=True)
    ]


def frame_size(
    frames: int, height: int, width: int, factor: int, min_pixels: int, max_pixels: int, budget: int
) -> tuple[int, int]:
    """Height and width to which the frames of a video are resized.

    Args:
        frames: how many frames are sampled.
        min_pixels, max_pixels: bounds for the area of one frame.
        budget: bound for the areas of all frames together; it never takes a frame below `min_pixels`.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    _check_aspect(height, width)
    rows, columns = _rounded(height, factor), _rounded(width, factor)
    if rows * columns > max_pixels:
        rows, columns = _shrunk(height, width, factor, math.sqrt(height * width / max_pixels))
    if frames * rows * columns > budget:
        rows, columns = _shrunk(height, width, factor, math.sqrt(frames * height * width / budget))
    if rows * columns < min_pixels:
        rows, columns = _grown(height, width, factor, math.sqrt(min_pixels / (height * width)))
    return rows, columns
