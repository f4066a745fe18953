"""Checkpoints on disk: what is in them, and whether it is what the configuration asks for. Reads headers only."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mossvl.errors import CheckpointError

MODEL_TYPE = "moss_vl"

IGNORED = (r"rotary_emb\.inv_freq$", r"rotary_pos_emb\.inv_freq$")
"""Patterns of tensors that published files may hold and that are not parameters."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a safetensors file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def require_model_type(folder: Path) -> None:
    """Refuse a folder that is not a MOSS-VL checkpoint.

    Raises:
        CheckpointError: there is no readable config.json, or it is of another model type.
    """
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder} is an adapter; make weights of it: mossvl merge {folder} -o NEW_FOLDER")
    if not path.is_file():
        inner = f"; it is {folder / 'model'}" if (folder / "model" / "config.json").is_file() else ""
        if (folder / "adapter" / "adapter_config.json").is_file():
            inner = f"; make one of the adapter in it: mossvl merge {folder / 'adapter'} -o NEW_FOLDER"
        raise CheckpointError(f"{folder} has no config.json; expected the folder of a MOSS-VL checkpoint{inner}")
    try:
        config = json.loads(path.read_text())
        model_type = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a configuration ({error}); get the file again") from error
    if model_type is None and config.get("auto_map"):
        raise CheckpointError(
            f"{path} names no model_type, only remote code ({', '.join(sorted(config['auto_map']))}); code from a "
            f"checkpoint is never run. Expected model_type {MODEL_TYPE!r}"
        )
    if model_type != MODEL_TYPE:
        raise CheckpointError(f"{path} is of model type {model_type!r}; expected {MODEL_TYPE!r}")


def without_ignored(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors that are parameters: without the rotary tables that some published files hold."""
    return {name: info for name, info in tensors.items() if not any(re.search(pattern, name) for pattern in IGNORED)}


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Names, shapes and types of all tensors of a checkpoint, sharded or not.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or a file is broken.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is not a list of shards ({error}); get the file again") from error
    else:
        files = ["model.safetensors"]
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; a checkpoint needs every one of its safetensors files")
        try:
            with safe_open(path, framework="pt") as shard:
                for key in shard.keys():  # noqa: SIM118 (not a mapping)
                    part = shard.get_slice(key)
                    tensors[key] = TensorInfo(tuple(part.get_shape()), DTYPES[part.get_dtype()], name)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is broken or cut off ({error}); get the file again") from error
    return tensors


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Everything that is missing, unexpected or misshapen in a checkpoint, a line each; empty when it fits."""
    lines = [f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"unexpected: {name} {list(found[name])}" for name in sorted(found.keys() - expected.keys())]
    lines += [
        f"misshapen: {name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(expected[name]) != tuple(found[name])
    ]
    return lines
