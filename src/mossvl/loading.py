"""One call from a checkpoint to a model and its processor."""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoProcessor

from mossvl.errors import CheckpointError, OptionError
from mossvl.model.checkpoint import require_model_type
from mossvl.model.location import check_location
from mossvl.offline.interface import MossVLForConditionalGeneration
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import IMAGE_TOKEN


def load(
    checkpoint: str | Path, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[MossVLForConditionalGeneration, MossVLProcessor]:
    """Load a checkpoint for inference.

    Args:
        checkpoint: a folder, or the name of a repository on the model hub.
        device: "cuda", "cuda:1", "cpu", …; by default a GPU if there is one.
        dtype: "bfloat16", "float32", …; by default bfloat16 on a GPU and float32 on a CPU.

    Raises:
        CheckpointError: it is missing, of another model type, or does not fit its configuration.
        OptionError: the device or the dtype does not exist.
    """
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    check_location(checkpoint)
    if Path(checkpoint).is_dir():
        require_model_type(Path(checkpoint))
    try:
        processor = AutoProcessor.from_pretrained(str(checkpoint))
        model = MossVLForConditionalGeneration.from_pretrained(str(checkpoint), dtype=kind)
    except (OSError, StrictDataclassError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{checkpoint} cannot be loaded as a MOSS-VL checkpoint: {first_line}") from error
    if processor.image_token_id != model.config.image_token_id:
        raise CheckpointError(
            f"{checkpoint}: its tokenizer has {IMAGE_TOKEN} as {processor.image_token_id}, its configuration as "
            f"{model.config.image_token_id}; is tokenizer.json missing?"
        )
    return model.to(target).eval(), processor


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device to run on; a GPU if there is one and none is named."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"device={device!r} is not a device; try 'cpu' or 'cuda'") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device={str(device)!r}: there is no usable GPU on this machine; try 'cpu'")
    return target


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The floating-point type to compute in."""
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise OptionError(f"dtype={dtype!r} is not a floating-point type; try 'bfloat16' or 'float32'")
    return kind
