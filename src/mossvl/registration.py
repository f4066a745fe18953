"""Registration with the Auto classes of transformers."""

import sys

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from mossvl.model.configuration import MossVLConfig, MossVLTextConfig, MossVLVisionConfig
from mossvl.offline.interface import MossVLForConditionalGeneration
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor


def register() -> None:
    """Make the Auto classes use this package for MOSS-VL; they then prefer it to a checkpoint's own code."""
    for config in (MossVLConfig, MossVLTextConfig, MossVLVisionConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    autos = [AutoModelForCausalLM, AutoModel, AutoModelForImageTextToText]
    if multimodal := getattr(transformers, "AutoModelForMultimodalLM", None):  # missing in the oldest supported version
        autos.append(multimodal)
    for auto in autos:
        auto.register(MossVLConfig, MossVLForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(MossVLConfig, MossVLProcessor, exist_ok=True)
    # One class, whichever backend transformers picks: the class uses neither.
    backends = {"torchvision": MossVLImageProcessor, "pil": MossVLImageProcessor}
    AutoImageProcessor.register(MossVLConfig, image_processor_classes=backends, exist_ok=True)
    AutoVideoProcessor.register(MossVLConfig, MossVLVideoProcessor, exist_ok=True)
    # Without torchvision, transformers exports stand-ins that only raise; these processors do not need torchvision.
    # transformers replaces its own module object during its import; either object may be in use.
    for module in (transformers, sys.modules["transformers"]):
        vars(module).update(AutoImageProcessor=AutoImageProcessor, AutoVideoProcessor=AutoVideoProcessor)
