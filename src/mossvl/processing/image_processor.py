"""The image processor of transformers' conventions."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_processing_utils import BaseImageProcessor

from mossvl.errors import OptionError
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.options.checks import pick, whole
from mossvl.options.media import MAX_PIXELS, MIN_PIXELS, PIXEL_BUDGET, bounds
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.plan import ImagePlan, ImageSettings, options_of, plan_images
from mossvl.processing.tensors import media_tensors

DEFAULT_SIZE = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
"""Least and most area of a picture in pixels; the published files call them edges."""


def checked_size(size: Any) -> dict[str, int]:
    """`size` with both of its areas.

    Raises:
        OptionError: they are none, or the least is more than the most.
    """
    if not isinstance(size, Mapping | None):
        raise OptionError(f"size={size!r:.80} must be a dict of shortest_edge and longest_edge, which are areas")
    areas = {**DEFAULT_SIZE, **(size or {})}
    least, most = (whole(f"size: {name}", areas[name]) for name in DEFAULT_SIZE)
    if least > most:
        raise OptionError(f"size: shortest_edge={least} is more than longest_edge={most}; both are areas")
    return areas


def checked_channels(name: str, values: Any) -> list[float]:
    """Mean or deviation of the three channels.

    Raises:
        OptionError: they are not three finite numbers, or a deviation is not above 0.
    """
    numbers = isinstance(values, Sequence) and all(isinstance(one, int | float) for one in values)
    if not numbers or len(values) != 3 or not all(math.isfinite(v) and (v > 0 or name == "image_mean") for v in values):
        raise OptionError(f"{name}={values!r:.80} must be three numbers" + ", each above 0" * (name == "image_std"))
    return list(values)


class MossVLImageProcessor(BaseImageProcessor):
    """Images to patches. `size` holds areas: `shortest_edge` the least, `longest_edge` the most, in pixels."""

    model_input_names = ["pixel_values", "grid_thw"]

    def __init__(
        self,
        size: dict[str, int] | None = None,
        multi_image_max_pixels: int = PIXEL_BUDGET,
        patch_size: int = 16,
        temporal_patch_size: int = 1,
        merge_size: int = 2,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        ImageProcessingMixin.__init__(self, **kwargs)
        self.size = checked_size(size)
        self.multi_image_max_pixels = whole("multi_image_max_pixels", multi_image_max_pixels)
        self.patch_size = whole("patch_size", patch_size)
        self.temporal_patch_size = whole("temporal_patch_size", temporal_patch_size)
        self.merge_size = whole("merge_size", merge_size)
        self.image_mean = checked_channels("image_mean", image_mean)
        self.image_std = checked_channels("image_std", image_std)

    @property
    def layout(self) -> PatchLayout:
        return PatchLayout(self.patch_size, self.temporal_patch_size, self.merge_size)

    def settings(self, options: MediaOptions) -> ImageSettings:
        """This processor's settings, as far as the options of a query do not say otherwise."""
        return ImageSettings(
            **bounds("pixels", options, self.size["shortest_edge"], self.size["longest_edge"]),
            multi_image_max_pixels=pick(options.multi_image_max_pixels, self.multi_image_max_pixels),
        )

    def plan(
        self, images: Sequence[Any], options: MediaOptions, limits: MediaLimits, stack: ExitStack
    ) -> list[ImagePlan]:
        """Open the images of one prompt and settle their sizes; `stack` closes them."""
        settings = [self.settings(options_of(image, options)) for image in images]
        return plan_images(images, settings, self.layout, limits, stack)

    def __call__(self, images: Any, limits: MediaLimits | None = None, **media_kwargs: Any) -> BatchFeature:
        """The images of one prompt → `pixel_values` (patches, 768) float32 and `grid_thw` (images, 3)."""
        images = images if isinstance(images, list | tuple) else [images]
        with ExitStack() as stack:
            options = MediaOptions.from_dict(media_kwargs)
            plans = self.plan(images, options, limits or MediaLimits(), stack)
            return BatchFeature(media_tensors(plans, self))

    preprocess = __call__


MossVLImageProcessorFast = MossVLImageProcessor
"""The name that published checkpoints use."""
