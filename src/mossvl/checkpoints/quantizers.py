"""How checkpoints say that their weights are quantized, and which formats of them can be read."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mossvl.checkpoints.headers import read_json
from mossvl.errors import CheckpointError
from mossvl.quantization import bitsandbytes, compressed_tensors
from mossvl.quantization.formats import Format, Unquantized

QUANTIZER_KEYS = ("quantization_config", "compression_config")
QUANTIZER_FILE = "hf_quant_config.json"
"""Where checkpoints say how their weights are quantized: keys of config.json, and a file beside it."""
METHODS: dict[str, Callable[[Mapping[str, Any]], Format]] = {
    compressed_tensors.METHOD: compressed_tensors.read,
    bitsandbytes.METHOD: bitsandbytes.read,
}
KNOWN = "compressed-tensors (FP8, INT4) and bitsandbytes (NF4)"
KINDS = {"NF4": ("nf4",), "FP8": ("fp8", "float-quantized", "e4m3")}
"""Published kinds of quantization, and marks of each kind in these places."""


def read_format(folder: Path) -> Format:
    """Read the format of a checkpoint's weights.

    Raises:
        CheckpointError: the weights are quantized in a way that cannot be read; the message names the key or file that
            says so, and lists the ways that can.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    form = format_of(folder, config)
    if (folder / QUANTIZER_FILE).is_file():
        raise _unreadable(folder, QUANTIZER_FILE, read_json(folder / QUANTIZER_FILE))
    return form


def format_of(checkpoint: Any, config: Mapping[str, Any]) -> Format:
    """As `read_format`, for the content of a config.json."""
    for part in (config, config.get("text_config"), config.get("vision_config")):
        for key in QUANTIZER_KEYS:
            found = part.get(key) if isinstance(part, Mapping) else None
            if not quantizes(found):
                continue
            if not isinstance(found, Mapping) or (read := METHODS.get(method_of(found))) is None:
                raise _unreadable(checkpoint, key, found)
            try:
                return read(found)
            except CheckpointError as error:
                raise _unreadable(checkpoint, key, found, f": {error}") from error
    return Unquantized()


def quantizes(found: Any) -> bool:
    """Whether a `quantization_config` says that weights are quantized, and not the opposite."""
    if not isinstance(found, Mapping):
        return bool(found)
    bits = [found[name] for name in ("load_in_4bit", "load_in_8bit") if name in found]
    if bits and found.get("quant_method") in (None, bitsandbytes.METHOD):
        return any(bits)
    return any(value is not None and value is not False for value in found.values())


def method_of(found: Mapping[str, Any]) -> str:
    """The method that a `quantization_config` names, or implies."""
    method = found.get("quant_method")
    if method is None and ("load_in_4bit" in found or "load_in_8bit" in found):
        return bitsandbytes.METHOD
    return str(method)


def _unreadable(checkpoint: Any, key: str, found: Any, reason: str = "") -> CheckpointError:
    content = json.dumps(found, default=str).lower()
    method = found.get("quant_method") if isinstance(found, Mapping) else None
    kind = next((kind for kind, marks in KINDS.items() if any(mark in content for mark in marks)), None)
    told = ", ".join(repr(str(one)[:40])[1:-1] for one in (kind, method) if one) or content[:80]
    return CheckpointError(
        f"{checkpoint} is quantized ({key}: {told}), which is not supported{reason}. Known are {KNOWN}; or load the "
        "checkpoint that it was made of, with quantization='fp8', 'int4' or 'nf4'"
    )
