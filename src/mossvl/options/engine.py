"""Settings of an engine: their names, defaults and limits."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mossvl.errors import OptionError, shown
from mossvl.options.checks import (
    Choice,
    Count,
    CountFrom0,
    Positive,
    Switch,
    check_options,
    choice,
    named_options,
    number,
)

GIB = 1 << 30
CPU_POOL_BYTES = 2 * GIB
KVDtype = Annotated[Literal["auto", "fp8"], Choice(("auto", "fp8"))]
QUANTIZATIONS = ("fp8", "int8", "int4", "nf4")
"""How weights may be quantized while they are read; `quantization/` has their meaning."""
NAME = re.compile(r"[\w.@:/-]{1,128}", re.ASCII)
"""Names of adapters."""
ON_CPU = "int8"
"""What is for CPUs alone."""


def check_quantization(given: str | None, device: str) -> None:
    """Refuse what is no quantization for a type of device ("cpu", "cuda", …); None is allowed.

    Raises:
        OptionError: it is none.
    """
    if given is not None:
        choice("quantization", given, QUANTIZATIONS)
    if given == ON_CPU and device != "cpu":
        raise OptionError(
            f"{{quantization=}} is for CPUs; on {device} take 'fp8', 'int4' or 'nf4'", given={"quantization": given}
        )


def adapter_paths(name: str, given: Any) -> dict[str, str]:
    """Return the paths of adapters by name, given so or as texts NAME=PATH, or raise an `OptionError`."""
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, list | tuple) and all(isinstance(one, str) and "=" in one for one in given):
        pairs = [tuple(one.split("=", 1)) for one in given]
    else:
        raise OptionError(f"{{{name}=}} must be paths by name: NAME=PATH", given={name: given})
    paths: dict[str, str] = {}
    for key, path in pairs:
        if not isinstance(key, str) or not NAME.fullmatch(key):
            raise OptionError(
                f"{{{name}}}: {shown(key, 80)} is no name of an adapter; use letters, digits and . _ - / : @",
                option=name,
            )
        if not isinstance(path, str | Path) or not str(path):
            raise OptionError(f"{{{name}}}: the adapter {key!r} needs a path, not {shown(path, 80)}", option=name)
        if key in paths:
            raise OptionError(f"{{{name}}}: two adapters are named {key!r}; give each a name of its own", option=name)
        paths[key] = str(path)
    return paths


def check_apart(adapters: Collection[str] | None, model: str) -> None:
    """Refuse an adapter that is named as the model, where requests choose both by name.

    Raises:
        OptionError: there is one.
    """
    if model in (adapters or ()):
        raise OptionError(
            f"{{lora}}: the adapter {shown(model)} is named as the model; give it another name", option="lora"
        )


@named_options("engine option")
@dataclass(frozen=True)
class EngineConfig:
    """Settings of an engine.

    Attributes:
        device, dtype, quantization, tensor_parallel_size: for loading a checkpoint, as in `mossvl.load`; ignored for a
            model that is loaded already.
        memory: for keys and values: up to 1, fraction of the device's memory for weights and pages together; above 1,
            bytes of pages. By default 0.88 of a GPU, and 2 GiB on a CPU.
        max_batch: maximum number of running requests; others wait (FIFO).
        max_sessions: live sessions that may be open; by default nine tenths of `max_batch`, if memory holds as many.
        max_token_gap: seconds that may pass between two tokens of an answer while prompts are computed: in steps that
            also decode, prompts get the time that it leaves beside decoding, but at least a quarter of the time that
            decoding takes. A frame is encoded whole, unless it is more work than 14,336 patches of small frames.
        page_size: text tokens of a page, and of a block of the prefix cache; a power of two. A page holds as many
            vision tokens as take the same memory.
        kv_cache_dtype: of keys and values of text tokens, and of vision tokens unless `vision_kv_cache_dtype` differs:
            `auto` is the model's dtype, `fp8` is float8_e4m3fn with scales, which takes about half the memory.
        vision_kv_cache_dtype: of keys and values of vision tokens, `auto` or `fp8`.
        prefill_tokens, vision_patches: maximum number of prompt tokens, and of patches, in one step. By default 4,096
            and 57,344 on a GPU; on a CPU about half a second's work, but at least 64 and 256.
        mixed_prefill_tokens, mixed_vision_patches: the same for a step that also decodes, in place of `max_token_gap`.
            A frame that is more work than eight times `mixed_vision_patches` is encoded in parts.
        prefix_cache: reuse keys and values of prompts that begin with the same tokens and pixels.
        vision_cache: maximum size of the cache of encoded frames, in bytes; 0 for no cache.
        media_cache: media whose digests are cached, so that a known file is not decoded again; 0 for no cache.
        media_workers: requests whose media load at the same time.
        media_bytes: maximum size of decoded pixels that wait for encoding.
        eager: no CUDA graphs.
        lora: folders of adapters, or names of repositories on the model hub, by the name that queries choose them by;
            or a list of texts NAME=PATH.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    device: str | None = None
    dtype: str | None = None
    quantization: Annotated[str, Choice(QUANTIZATIONS)] | None = None
    tensor_parallel_size: Count = 1
    memory: float | None = None
    max_batch: Count = 256
    max_sessions: Count | None = None
    page_size: Count = 32
    max_token_gap: Positive = 0.1
    kv_cache_dtype: KVDtype = "auto"
    vision_kv_cache_dtype: KVDtype | None = None
    prefill_tokens: Count | None = None
    vision_patches: Count | None = None
    mixed_prefill_tokens: Count | None = None
    mixed_vision_patches: Count | None = None
    prefix_cache: Switch = True
    vision_cache: CountFrom0 = GIB
    media_cache: CountFrom0 = 1024
    media_workers: Count = 8
    media_bytes: Count = 2 * GIB
    eager: Switch = False
    lora: Annotated[dict[str, str], adapter_paths] | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.memory is not None:
            number("memory", self.memory, above=0)
        if self.max_sessions is not None and self.max_sessions > self.max_batch:
            raise OptionError(
                "{max_sessions=} is more than {max_batch=}: every session takes a place",
                given={"max_sessions": self.max_sessions, "max_batch": self.max_batch},
            )
        if self.page_size & (self.page_size - 1):
            raise OptionError("{page_size=} must be a power of two", given={"page_size": self.page_size})
