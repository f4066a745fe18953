"""Merging of an adapter into the weights of its checkpoint."""

from pathlib import Path

from mossvl import loading
from mossvl.checkpoints.location import check_trained
from mossvl.disk import new_folder
from mossvl.errors import CheckpointError
from mossvl.quantization.schemes import quantized_maps


def merge(adapter: Path, output: Path, checkpoint: str | None = None, dtype: str = "bfloat16") -> None:
    """Merge an adapter into its checkpoint, and write the result with the published weight names.

    Args:
        adapter: a folder that `mossvl train` wrote.
        output: a new folder.
        checkpoint: the checkpoint that the adapter was trained on, if it has moved.
        dtype: of the merged weights.

    Raises:
        CheckpointError: the adapter or its checkpoint cannot be loaded, weights are quantized, or `output` exists.
    """
    from peft import PeftConfig, PeftModel

    check_trained(adapter)
    base = checkpoint or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    with new_folder(output) as written:
        model, processor = loading.load(base, "cpu", dtype)
        if any(quantized_maps(model)):
            raise CheckpointError(
                f"{base} is quantized, so that no adapter can be merged into it; name what it was made of with -c"
            )
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
        merged.save_pretrained(written)
        processor.save_pretrained(written)
