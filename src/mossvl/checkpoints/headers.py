"""Files of a checkpoint: model type, and headers of its tensors."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mossvl.errors import CheckpointError
from mossvl.quantization.formats import Target

MODEL_TYPE = "moss_vl"

IGNORED = (r"rotary_emb\.inv_freq$", r"rotary_pos_emb\.inv_freq$")
"""Patterns of names of tensors in published files that are not parameters."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"[^/\\\x00]+\.safetensors")
"""Pattern of a shard's name, which is not a path."""
UNUSABLE = " cannot be used: "
REASON = 300
"""Characters of another library's message that an error quotes."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Dtypes of stored weights, by their names in safetensors files; integers occur in quantized weights."""
EXACT = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Floating-point dtypes of quantized weights, whose values mean nothing without their scales."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a safetensors file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@contextmanager
def usable(what: str, missing: bool = False) -> Iterator[None]:
    """Turn any error of reading `what` of a checkpoint into a CheckpointError of one line.

    Args:
        missing: turn an OSError into one, too; otherwise it passes, as in transformers.

    Raises:
        CheckpointError: reading has failed.
    """
    try:
        yield
    except Exception as error:  # Malformed files make parsers and classes raise nearly any exception.
        own = isinstance(error, CheckpointError) and str(error).startswith(what)
        if own or (isinstance(error, OSError) and not missing):
            raise
        inner = str(error).partition(UNUSABLE)[2] if isinstance(error, CheckpointError) else ""  # of a nested `usable`
        reason = " ".join((inner or str(error)).split())[:REASON] or type(error).__name__
        raise CheckpointError(f"{what}{UNUSABLE}{reason}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a checkpoint that holds a JSON object.

    Raises:
        CheckpointError: the file is missing, a link to elsewhere, or not a JSON object.
    """
    own = own_file(path)
    try:
        found = json.loads(own.read_bytes().decode())  # UTF-8 without a byte order mark, as transformers reads it.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON that can be read ({error}); get the file again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {type(found).__name__}; expected an object {{…}}. Get the file again")
    return found


def own_file(path: Path) -> Path:
    """Return a file of a checkpoint that is in the checkpoint's folder, or a link into the blobs of the hub's cache.

    Raises:
        CheckpointError: the file is missing, or a link to elsewhere.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a checkpoint needs every one of its safetensors files")
    folder, target = path.parent.resolve(), path.resolve()
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    homes = [folder] if snapshots is None else [folder, snapshots.parent / "blobs"]
    if not any(target.is_relative_to(home) for home in homes):
        raise CheckpointError(f"{path} is a link to {target}, outside of its folder; put the file itself there")
    return path


def require_model_type(folder: Path) -> None:
    """Refuse a folder that is not a MOSS-VL checkpoint.

    Raises:
        CheckpointError: config.json is missing, malformed or of another model type, or the folder is an adapter.
    """
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} is an adapter; give it beside its checkpoint (--lora {folder}), or merge it into a checkpoint: "
            f"mossvl merge {folder} -o NEW_FOLDER"
        )
    if not path.is_file():
        inner = f"; it is {folder / 'model'}" if (folder / "model" / "config.json").is_file() else ""
        if (folder / "adapter" / "adapter_config.json").is_file():
            inner = f"; merge the adapter in it into one: mossvl merge {folder / 'adapter'} -o NEW_FOLDER"
        raise CheckpointError(f"{folder} has no config.json; expected the folder of a MOSS-VL checkpoint{inner}")
    config = read_json(path)
    model_type = config.get("model_type")
    if model_type is None and isinstance(config.get("auto_map"), dict):
        raise CheckpointError(
            f"{path} names no model_type, only remote code ({', '.join(sorted(config['auto_map']))}); code from a "
            f"checkpoint is never run. Expected model_type {MODEL_TYPE!r}"
        )
    if model_type != MODEL_TYPE:
        raise CheckpointError(f"{path} is of model type {model_type!r}; expected {MODEL_TYPE!r}")


def without_ignored(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors that are parameters, without the rotary tables of some published files."""
    return {name: info for name, info in tensors.items() if not any(re.search(pattern, name) for pattern in IGNORED)}


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Read names, shapes and dtypes of all tensors of a checkpoint, sharded or not.

    Raises:
        CheckpointError: weights are missing, a shard is missing or a link to elsewhere, a file is broken, or a tensor
            is in two files.
    """
    tensors: dict[str, TensorInfo] = {}
    for name in _weight_files(folder):
        for key, info in file_headers(folder / name).items():
            if key in tensors:
                raise CheckpointError(f"{folder}: {key} is in {tensors[key].file} and in {name}; expected in one")
            tensors[key] = info
    return tensors


def file_headers(path: Path) -> dict[str, TensorInfo]:
    """Read names, shapes and dtypes of the tensors of one file.

    Raises:
        CheckpointError: the file is missing, a link to elsewhere, or broken.
    """
    own_file(path)
    tensors = {}
    try:
        with safe_open(path, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118 (not a mapping)
                part = shard.get_slice(key)
                tensors[key] = TensorInfo(tuple(part.get_shape()), _dtype(key, part.get_dtype(), path), path.name)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is broken or cut off ({error}); get the file again") from error
    return tensors


def _weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files.

    Raises:
        CheckpointError: the index is malformed, or names a file outside of its folder.
    """
    index = folder / INDEX
    if not index.is_file():
        return [WEIGHTS]
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} is not a list of shards (weight_map: {places!r:.80}); get the file again")
    for name in places.values():
        if not SHARD.fullmatch(name):
            raise CheckpointError(f"{index} names {name!r:.200}; expected names of safetensors files beside it")
    return sorted(set(places.values()))


def _dtype(name: str, stored: str, path: Path) -> torch.dtype:
    """Return the dtype of a stored tensor, which must be one that weights may have."""
    kind = DTYPES.get(stored)
    if kind is None:
        raise CheckpointError(f"{path}: {name} is of type {stored}; expected one of {', '.join(DTYPES)}")
    return kind


def mistyped(expected: Mapping[str, Target], found: Mapping[str, TensorInfo]) -> list[str]:
    """List tensors of other dtypes than the model can be filled with, one line each.

    A plain weight may be of any floating-point dtype; a quantized one and integers must be of their own.
    """
    return [
        f"mistyped: {name} is of type {_told(found[name].dtype)}, expected "
        + (_told(wanted) if _exact(wanted) else "floating-point numbers")
        for name in sorted(expected.keys() & found.keys())
        for wanted in [expected[name].dtype]
        if (found[name].dtype != wanted if _exact(wanted) else not found[name].dtype.is_floating_point)
    ]


def _exact(dtype: torch.dtype) -> bool:
    return dtype in EXACT or not dtype.is_floating_point


def _told(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """List the tensors of a checkpoint that are missing, unexpected or misshapen, one line each."""
    lines = [f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"unexpected: {name} {list(found[name])}" for name in sorted(found.keys() - expected.keys())]
    lines += [
        f"misshapen: {name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(expected[name]) != tuple(found[name])
    ]
    return lines
