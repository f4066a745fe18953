"""MOSS-VL: an open vision-language model for images and long videos.

Importing this package registers its classes with transformers, so that `AutoModelForCausalLM`, `AutoModel`,
`AutoProcessor`, `AutoImageProcessor`, `AutoVideoProcessor` and `AutoConfig` load MOSS-VL checkpoints with them; no code
from a checkpoint is ever run.
"""

import os
import signal
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from mossvl import forking as forking  # Before all else: it registers hooks for forks.
from mossvl.importing import is_command, without_collector
from mossvl.version import __version__ as __version__

OLDEST_TRANSFORMERS = "5.12"
_installed = metadata.version("transformers")
if tuple(map(int, _installed.split(".")[:2])) < tuple(map(int, OLDEST_TRANSFORMERS.split("."))):
    raise ImportError(
        f"mossvl needs transformers {OLDEST_TRANSFORMERS} or newer, but {_installed} is installed; "
        f"pip install 'transformers>={OLDEST_TRANSFORMERS}'"
    )

# Let OpenMP threads spin for microseconds only, then sleep: where other programs share the cores, long spinning makes
# small operations many times slower. PyTorch reads the setting when it is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

if TYPE_CHECKING:
    from mossvl import errors
    from mossvl.live.options import LiveOptions
    from mossvl.live.session import LiveSession
    from mossvl.llm import MossVL
    from mossvl.loading import load
    from mossvl.model.cache import MossVLCache
    from mossvl.model.configuration import MossVLConfig, MossVLTextConfig, MossVLVisionConfig
    from mossvl.model.modeling import MossVLModel
    from mossvl.offline.interface import MossVLForConditionalGeneration
    from mossvl.offline.realtime import MossVLRealtimeSession
    from mossvl.options import GenerationOptions, MediaOptions, SamplingParams
    from mossvl.options.engine import EngineConfig
    from mossvl.processing.image_processor import MossVLImageProcessor
    from mossvl.processing.processor import MossVLProcessor
    from mossvl.processing.video_processor import MossVLVideoProcessor

__all__ = [
    "EngineConfig",
    "GenerationOptions",
    "LiveOptions",
    "LiveSession",
    "MediaOptions",
    "MossVL",
    "MossVLCache",
    "MossVLConfig",
    "MossVLForConditionalGeneration",
    "MossVLImageProcessor",
    "MossVLModel",
    "MossVLProcessor",
    "MossVLRealtimeSession",
    "MossVLTextConfig",
    "MossVLVideoProcessor",
    "MossVLVisionConfig",
    "SamplingParams",
    "errors",
    "load",
]

_MODULES = {
    "EngineConfig": "options",
    "LiveOptions": "live.options",
    "LiveSession": "live.session",
    "MossVL": "llm",
    "SamplingParams": "options",
    "GenerationOptions": "options",
    "MediaOptions": "options",
    "MossVLCache": "model.cache",
    "MossVLConfig": "model.configuration",
    "MossVLForConditionalGeneration": "offline.interface",
    "MossVLImageProcessor": "processing.image_processor",
    "MossVLModel": "model.modeling",
    "MossVLProcessor": "processing.processor",
    "MossVLRealtimeSession": "offline.realtime",
    "MossVLTextConfig": "model.configuration",
    "MossVLVideoProcessor": "processing.video_processor",
    "MossVLVisionConfig": "model.configuration",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _MODULES:
        return getattr(import_module(f"mossvl.{_MODULES[name]}"), name)
    if name == "errors":
        return import_module("mossvl.errors")
    raise AttributeError(f"module 'mossvl' has no attribute {name!r}")


# Registering imports torch and transformers, which takes seconds. The command `mossvl` registers when it needs them, so
# that its help appears at once; so does a replica's process (`replicas/processes.py`).
# Before it begins and after it has ended, Ctrl-C ends the command without a traceback.
_replica = os.environ.pop("MOSSVL_UNREGISTERED", None) is not None
if not _replica and not is_command():
    with without_collector():
        from mossvl.registration import register

        register()
elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
