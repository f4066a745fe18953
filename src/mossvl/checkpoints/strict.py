"""Strict loading: a checkpoint that does not fit its configuration is an error that lists the differences."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_accelerate_available

from mossvl.checkpoints.dtypes import check_dtypes
from mossvl.checkpoints.headers import (
    TensorInfo,
    differences,
    mistyped,
    read_headers,
    require_model_type,
    usable,
    without_ignored,
)
from mossvl.checkpoints.quantizers import format_of, read_format
from mossvl.errors import CheckpointError, OptionError
from mossvl.forking import check_fork
from mossvl.quantization.bitsandbytes import BitsAndBytes
from mossvl.quantization.formats import Format, Target, Unquantized, targets_of
from mossvl.quantization.schemes import HEAD, replace

LISTED = 10
"""Differences that an error message lists."""
MOST_TOKENS = 2**31
"""Upper bound of token ids."""


def expected_tensors(
    cls: type[PreTrainedModel], config: Any, form: Format, found: Mapping[str, TensorInfo]
) -> dict[str, Target]:
    """Return the tensors that a configuration requires of a checkpoint in a format, by name, on the meta device.

    Raises:
        CheckpointError: the format has quantized maps that cannot be quantized so, or none.
    """
    with torch.device("meta"):
        model = cls(config)
    schemes = form.schemes(model, found)
    if not schemes and not isinstance(form, Unquantized):
        raise CheckpointError(f"the configuration says that weights are quantized ({form.told}), but none is")
    replace(model, schemes)
    tensors, _ = targets_of(model, form, found)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return tensors


def load_pretrained(
    cls: type[PreTrainedModel], load: Callable[..., Any], checkpoint: Any, *args: Any, **kwargs: Any
) -> Any:
    """Call transformers' `from_pretrained`, strictly, and without accelerate if `device_map` names one device.

    Args:
        load: transformers' `from_pretrained`.
        args, kwargs: its arguments.

    Raises:
        CheckpointError: the checkpoint is of another model type, does not fit its configuration, or is quantized in a
            way that cannot be read or whose package is missing.
        OptionError: models do not compute in the dtype, or `device_map` needs accelerate.
        EngineError: this process was forked from one that had computed before.
    """
    given, asked = kwargs.get("config"), kwargs.get("dtype", kwargs.get("torch_dtype"))
    check_dtypes(asked, getattr(given, "dtype", None))
    check_fork()
    folder = Path(checkpoint) if checkpoint is not None else None
    form: Format = Unquantized()
    if folder is not None and folder.is_dir() and kwargs.get("gguf_file") is None:
        part = folder / kwargs.get("subfolder", "")
        require_model_type(part)
        form = read_format(part)
        if (
            kwargs.get("variant") is None
            and kwargs.get("state_dict") is None
            and kwargs.get("use_safetensors") is not False
        ):
            config = read_configuration(cls, part, given)
            check_dtypes(asked, config.dtype)
            check_weights(cls, config, part)
            read_generation_config(part)
            if isinstance(form, BitsAndBytes):
                kwargs["config"] = skipping_plain(config, read_headers(part))
    elif folder is not None and kwargs.get("gguf_file") is None:  # a repository on the model hub
        known = given.to_dict() if isinstance(given, PreTrainedConfig) else None
        form = format_of(checkpoint, known or cls.config_class.get_config_dict(given or checkpoint, **kwargs)[0])
    device = None
    if kwargs.get("device_map") is not None and not is_accelerate_available():
        device = _single_device(kwargs.pop("device_map"))
    wants_info = kwargs.pop("output_loading_info", False)
    try:
        model, info = load(checkpoint, *args, output_loading_info=True, **kwargs)
    except ImportError as error:
        if isinstance(form, Unquantized) and kwargs.get("quantization_config") is None:
            raise
        raise CheckpointError(
            f"{checkpoint} cannot be quantized by transformers: {error}; mossvl.load needs no other package"
        ) from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "mismatched" not in str(error):
            raise
        raise CheckpointError(f"{checkpoint} does not fit its configuration: {error}") from error
    lines = [f"missing: {name}" for name in sorted(info["missing_keys"])]
    lines += [f"unexpected: {name}" for name in sorted(info["unexpected_keys"])]
    raise_if_any(checkpoint, lines)
    if device is not None:
        model = model.to(device)
    if model.generation_config is not None:
        without_quantized_cache(model.generation_config)
    return (model, info) if wants_info else model


def skipping_plain(config: Any, headers: Mapping[str, TensorInfo]) -> Any:
    """Return a copy of the configuration that names the maps whose weights bitsandbytes has not quantized.

    The list in the checkpoint may be meant for other rules: versions of transformers differ in how they match names.
    """
    copied = copy.deepcopy(config)
    given = getattr(copied, "quantization_config", None)
    if isinstance(given, dict):
        quantized = {name for name, info in headers.items() if info.dtype == torch.uint8}
        plain = {name.removesuffix(".weight") for name in {f"{HEAD}.weight", *headers} - quantized}
        given["llm_int8_skip_modules"] = sorted(re.escape(name) for name in plain)
    return copied


def check_weights(cls: type[PreTrainedModel], config: Any, folder: Path) -> None:
    """Refuse weights that do not fit a configuration; compares headers, allocates nothing.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshapen, a file is missing or broken, or weights are
            quantized in a way that cannot be read.
    """
    raise_if_any(folder, header_differences(cls, config, read_format(folder), read_headers(folder)))


def header_differences(
    cls: type[PreTrainedModel], config: Any, form: Format, tensors: Mapping[str, TensorInfo]
) -> list[str]:
    """List the differences between a checkpoint's tensors and those that its configuration and format require.

    Raises:
        CheckpointError: see `expected_tensors`.
    """
    found = {name: tensor.shape for name, tensor in without_ignored(tensors).items()}
    layers = config.text_config.num_hidden_layers + config.vision_config.depth
    if layers > len(found):  # A layer has a dozen tensors: do not even make their names.
        return [f"missing: most of {layers} layers (num_hidden_layers, depth); there are {len(found)} tensors"]
    if config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    expected = expected_tensors(cls, config, form, tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    return differences(shapes, found) + mistyped(expected, tensors)


def read_configuration(cls: type[PreTrainedModel], folder: Path, given: Any = None) -> Any:
    """Return the configuration `given`, or read it, by default from the checkpoint.

    Raises:
        CheckpointError: the configuration is malformed.
    """
    if given is not None and not isinstance(given, str | Path):
        return given
    return cls.config_class.from_pretrained(given or folder)


def read_generation_config(folder: Path) -> GenerationConfig:
    """Read generation_config.json, or else make a GenerationConfig of config.json, as transformers does.

    A quantized cache, which published files of quantized weights name, is ignored: keys and values are kept elsewhere.

    Raises:
        CheckpointError: the file is malformed, or a token id out of range.
    """
    with usable(f"{folder}/generation_config.json", missing=True):
        own = (folder / "generation_config.json").is_file()
        config = (
            GenerationConfig.from_pretrained(folder)
            if own
            else GenerationConfig.from_pretrained(folder, config_file_name="config.json", _from_model_config=True)
        )
        ends = config.eos_token_id
        single = [token for token in (config.bos_token_id, config.pad_token_id) if token is not None]
        for token in [*single, *(ends if isinstance(ends, list) else [] if ends is None else [ends])]:
            if type(token) is not int or not 0 <= token < MOST_TOKENS:
                raise ValueError(f"{token!r:.80} is not a token id (bos_token_id, pad_token_id, eos_token_id)")
    return without_quantized_cache(config)


def without_quantized_cache(config: GenerationConfig) -> GenerationConfig:
    """Return the configuration, in which a quantized cache is named no longer."""
    if config.cache_implementation == "quantized":
        config.cache_implementation = config.cache_config = None
    return config


def raise_if_any(checkpoint: Any, lines: list[str]) -> None:
    """Raise a CheckpointError if there are differences; the message lists the first LISTED lines."""
    if lines:
        more = f"; and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        raise CheckpointError(
            f"{checkpoint} does not fit its configuration: {'; '.join(lines[:LISTED])}{more}. "
            "`mossvl inspect` lists every difference"
        )


def _single_device(device_map: Any) -> torch.device:
    """Return the single device that a `device_map` names."""
    if isinstance(device_map, dict) and len(set(device_map.values())) == 1:
        device_map = next(iter(device_map.values()))
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device_map, str | int | torch.device):
        return torch.device(device_map)
    raise OptionError(
        "{device_map=} spreads the model over several devices; install accelerate for that",
        given={"device_map": device_map},
    )
