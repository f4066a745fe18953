"""Writing of quantized checkpoints, which any program can load that reads compressed-tensors."""

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from mossvl.checkpoints.headers import INDEX, own_file, read_json
from mossvl.checkpoints.quantizers import read_format
from mossvl.disk import new_folder
from mossvl.errors import OptionError, ResourceError
from mossvl.loading import DOWNLOADED, folder_of, load
from mossvl.options.checks import choice
from mossvl.quantization.compressed_tensors import FORMATS, describe
from mossvl.quantization.formats import Unquantized
from mossvl.quantization.schemes import left_plain, quantized_maps, scheme_of

SHARD_BYTES = 5 * 2**30
"""Maximum size of a file of weights."""
REWRITTEN = ("config.json", INDEX)
"""Files of a checkpoint that are not copied."""


def quantize(
    checkpoint: str | Path, output: Path, kind: str, device: str | None = None, dtype: str = "bfloat16"
) -> None:
    """Quantize a checkpoint as `mossvl.load(…, quantization=kind)` does, and write the result.

    Args:
        checkpoint: a folder, or the name of a repository on the model hub (`owner/name`, `owner/name@revision`).
        output: a new folder.
        kind: "fp8" or "int4".
        device: where weights are quantized; by default cuda if there is a GPU, else cpu.
        dtype: of the weights that are not quantized.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or `output` exists.
        OptionError: the checkpoint is quantized already, it has no map that can be, or the kind, the device or the
            dtype is none.
        ResourceError: the result cannot be written.
    """
    choice("kind", kind, tuple(FORMATS))
    with new_folder(output) as written:
        folder = folder_of(checkpoint)
        if not isinstance(form := read_format(folder), Unquantized):
            raise OptionError(f"{checkpoint} is quantized already ({form.told}); give what it was made of")
        model, _ = load(folder, device, dtype, quantization=kind)
        for file in (one for pattern in DOWNLOADED for one in folder.glob(pattern)):
            if file.name not in REWRITTEN and file.suffix != ".safetensors":
                shutil.copyfile(own_file(file), written / file.name)
        schemes = {name: scheme_of(linear) for name, linear in quantized_maps(model)}
        if not schemes:
            raise OptionError(f"no map of {checkpoint} divides into blocks of {kind}")
        config = {**read_json(folder / "config.json"), "quantization_config": describe(schemes, left_plain(model))}
        (written / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        try:
            save_torch_state_dict(tensors_of(model), written, max_shard_size=SHARD_BYTES)
        except (OSError, SafetensorError) as error:
            raise ResourceError(f"{output} cannot be written ({error}); make room, or write elsewhere") from error


def tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of a model by their names in a checkpoint of compressed-tensors."""
    tensors: dict[str, Tensor] = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    for name, linear in quantized_maps(model):
        if f"{name}.weight_packed" in tensors:
            tensors[f"{name}.weight_shape"] = torch.tensor([linear.out_features, linear.in_features])
    return tensors
