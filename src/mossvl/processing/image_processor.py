"""The image processor, with transformers' interface."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from transformers.image_processing_utils import BaseImageProcessor

from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.options.checks import pick, whole
from mossvl.options.media import PIXEL_BUDGET, bounds
from mossvl.processing.model_inputs import ModelInputs
from mossvl.processing.pixel_settings import PixelSettings
from mossvl.processing.plan import ImagePlan, ImageSettings, options_of, plan_images
from mossvl.processing.tensors import media_tensors


class MossVLImageProcessor(PixelSettings, BaseImageProcessor):
    """Images to patches.

    Args:
        multi_image_max_pixels: area in pixels that several images of one prompt share.
        settings: see `PixelSettings`.
    """

    def __init__(
        self, size: Mapping[str, int] | None = None, multi_image_max_pixels: int = PIXEL_BUDGET, **settings: Any
    ) -> None:
        super().__init__(size, **settings)
        self.multi_image_max_pixels = whole("multi_image_max_pixels", multi_image_max_pixels)

    def settings(self, options: MediaOptions) -> ImageSettings:
        """A query's options, with this processor's settings as defaults."""
        return ImageSettings(
            **bounds("pixels", options, self.size["shortest_edge"], self.size["longest_edge"]),
            multi_image_max_pixels=pick(options.multi_image_max_pixels, self.multi_image_max_pixels),
        )

    def plan(
        self, images: Sequence[Any], options: MediaOptions, limits: MediaLimits, stack: ExitStack
    ) -> list[ImagePlan]:
        """Open the images of one prompt and compute their sizes; `stack` closes them.

        Raises:
            MediaError: an image cannot be read.
            OptionError: options exclude each other, or would make an image too large.
        """
        settings = [self.settings(options_of(image, options)) for image in images]
        return plan_images(images, settings, self.layout, limits, stack)

    def __call__(self, images: Any, limits: MediaLimits | None = None, **media_kwargs: Any) -> ModelInputs:
        """Process the images of one prompt.

        Returns:
            `pixel_values` (patches, 3 · patch_size²) float32 and `grid_thw` (images, 3) int64, also named
            `image_grid_thw`, the name that is listed (`ModelInputs`).

        Raises:
            InputError: an image or an option cannot be used.
        """
        images = images if isinstance(images, list | tuple) else [images]
        with ExitStack() as stack:
            options = MediaOptions.from_dict(media_kwargs)
            plans = self.plan(images, options, limits or MediaLimits(), stack)
            return ModelInputs.of(media_tensors(plans, self))

    preprocess = __call__


MossVLImageProcessorFast = MossVLImageProcessor
"""The class name in published checkpoints."""
