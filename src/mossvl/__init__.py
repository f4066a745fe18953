"""MOSS-VL: an open vision-language model for images and long videos.

Importing this package registers its classes with transformers, so that `AutoModelForCausalLM`, `AutoModel`,
`AutoProcessor`, `AutoImageProcessor`, `AutoVideoProcessor` and `AutoConfig` load MOSS-VL checkpoints with them; no code
from a checkpoint is ever run.
"""

from mossvl import errors
from mossvl.loading import load
from mossvl.model.cache import MossVLCache
from mossvl.model.configuration import MossVLConfig, MossVLTextConfig, MossVLVisionConfig
from mossvl.model.modeling import MossVLModel
from mossvl.offline.interface import MossVLForConditionalGeneration
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor
from mossvl.registration import register

__version__ = "0.1.0"

__all__ = [
    "GenerationOptions",
    "MediaOptions",
    "MossVLCache",
    "MossVLConfig",
    "MossVLForConditionalGeneration",
    "MossVLImageProcessor",
    "MossVLModel",
    "MossVLProcessor",
    "MossVLTextConfig",
    "MossVLVideoProcessor",
    "MossVLVisionConfig",
    "errors",
    "load",
]

register()
