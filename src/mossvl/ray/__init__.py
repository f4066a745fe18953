"""Answers on a Ray cluster: `build_processor` for Ray Data, `build_app` for Ray Serve.

Ray itself is imported when it is first used; where it is not installed, this package cannot be imported.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if (_found := find_spec("ray")) is None or _found.origin is None:  # A folder of this name has no origin.
    raise ImportError("mossvl.ray needs the extra 'ray': pip install '.[ray]' in a clone of mossvl", name="ray")

if TYPE_CHECKING:
    from mossvl.ray.app_args import AppArgs
    from mossvl.ray.config import ProcessorConfig
    from mossvl.ray.processor import build_processor
    from mossvl.ray.serving import build_app

__all__ = ["AppArgs", "ProcessorConfig", "build_app", "build_processor"]

_MODULES = {
    "AppArgs": "app_args",
    "ProcessorConfig": "config",
    "build_app": "serving",
    "build_processor": "processor",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _MODULES:
        return getattr(import_module(f"mossvl.ray.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'mossvl.ray' has no attribute {name!r}")
