"""The plug-in of lmms-eval, `--model moss_vl`: see docs/evaluation.md."""

from typing import Any


def manifest() -> Any:
    """The plug-in's `ModelManifest`, which lmms-eval finds by the entry point; the model's classes are not imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    classes = f"{__name__}.model"
    return ModelManifest(
        model_id="moss_vl",
        simple_class_path=f"{classes}.SimpleMossVL",
        chat_class_path=f"{classes}.ChatMossVL",
        aliases=("mossvl",),
    )
