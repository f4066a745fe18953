"""Settings that the image and the video processor share. A picture is an image or a frame of a video."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_processing_base import ImageProcessingMixin

from mossvl.errors import OptionError
from mossvl.options.checks import whole
from mossvl.options.media import MAX_PIXELS, MIN_PIXELS
from mossvl.processing.pixels import PatchLayout

DEFAULT_SIZE = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
"""Bounds for the area of a picture, in pixels; published files call them edges."""
PATCHES = ("patch_size", "temporal_patch_size", "merge_size")
SCALE = ("image_mean", "image_std")


class PixelSettings(ImageProcessingMixin):
    """How pictures are resized, cut into patches and normalised.

    Args:
        size: bounds for the area of a picture in pixels: `shortest_edge` the lower, `longest_edge` the upper.
        patch_size, temporal_patch_size, merge_size: see `PatchLayout`.
        image_mean, image_std: mean and standard deviation of each channel, whose values go from 0 to 1.

    Raises:
        OptionError: a value is malformed or out of range.
    """

    model_input_names = ["pixel_values", "grid_thw"]

    def __init__(
        self,
        size: Mapping[str, int] | None = None,
        patch_size: int = 16,
        temporal_patch_size: int = 1,
        merge_size: int = 2,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        ImageProcessingMixin.__init__(self, **kwargs)
        self.size = checked_size(size)
        self.patch_size = whole("patch_size", patch_size)
        self.temporal_patch_size = whole("temporal_patch_size", temporal_patch_size)
        self.merge_size = whole("merge_size", merge_size)
        self.image_mean = checked_channels("image_mean", image_mean)
        self.image_std = checked_channels("image_std", image_std)

    @property
    def layout(self) -> PatchLayout:
        return PatchLayout(self.patch_size, self.temporal_patch_size, self.merge_size)


def checked_size(size: Any) -> dict[str, int]:
    """Check `size`, and add the default of a bound that is missing.

    Raises:
        OptionError: a bound is not a positive integer, or the lower one is more than the upper one.
    """
    if not isinstance(size, Mapping | None):
        raise OptionError(
            "{size=} must be a dict of shortest_edge and longest_edge, areas in pixels", given={"size": size}
        )
    areas = {**DEFAULT_SIZE, **(size or {})}
    least, most = (whole(f"size: {name}", areas[name]) for name in DEFAULT_SIZE)
    if least > most:
        raise OptionError(
            "size: {shortest_edge=} is more than {longest_edge=}; both are areas in pixels",
            given={"shortest_edge": least, "longest_edge": most},
        )
    return areas


def checked_channels(name: str, values: Any) -> list[float]:
    """Check the mean or the standard deviation of the three channels.

    Raises:
        OptionError: `values` are not three finite numbers, or a deviation is not above 0.
    """
    numbers = isinstance(values, Sequence) and all(isinstance(one, int | float) for one in values)
    if not numbers or len(values) != 3 or not all(math.isfinite(v) and (v > 0 or name == "image_mean") for v in values):
        raise OptionError(
            f"{{{name}=}} must be three numbers" + ", each above 0" * (name == "image_std"), given={name: values}
        )
    return list(values)
