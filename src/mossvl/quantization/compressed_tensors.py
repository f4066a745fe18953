"""Checkpoints of compressed-tensors: FP8 with a scale for each output, and INT4 with a scale for each group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import regex
import torch
from torch import Tensor, nn

from mossvl.errors import CheckpointError
from mossvl.quantization.formats import Headers, Stored, Whole
from mossvl.quantization.int4 import GROUPS, Int4Linear
from mossvl.quantization.linear import QuantizedLinear
from mossvl.quantization.schemes import HEAD, TEXT_MAPS, Scheme, Schemes, plain_maps

METHOD = "compressed-tensors"
FORMATS = {"fp8": ("float-quantized", "naive-quantized"), "int4": ("pack-quantized",)}
MIXED = "mixed-precision"
REGEX = "re:"
MATCH_SECONDS = 1.0
"""Most time that a pattern may take for a name: of a checkpoint from elsewhere, one may try for ever."""
SCALES = (torch.bfloat16, torch.float16, torch.float32)
FP8_WEIGHTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
FP8_INPUTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
PRESETS: dict[str, dict[str, Any]] = {
    "FP8_DYNAMIC": {"weights": FP8_WEIGHTS, "input_activations": FP8_INPUTS},
    "W4A16": {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}},
}
"""Groups that a configuration may name without describing them."""


@dataclass(frozen=True)
class CompressedTensors:
    """The format, as a `quantization_config` describes it.

    Attributes:
        targets: schemes by target: the name of a map, `re:` and a pattern of the beginning of names, or `Linear`.
        ignore: targets of which no map is quantized.
    """

    targets: Mapping[str, Scheme]
    ignore: tuple[str, ...]

    @property
    def told(self) -> str:
        kinds = dict.fromkeys(scheme.kind.upper() for scheme in self.targets.values())
        return f"{' and '.join(kinds) or 'nothing'}, {METHOD}"

    def scheme(self, name: str) -> Scheme | None:
        """The scheme of a map: names come before patterns, and patterns before `Linear`."""
        if any(matches(name, one) for one in self.ignore):
            return None
        order = sorted(self.targets, key=lambda target: (target == LINEAR, target.startswith(REGEX), target))
        return next((self.targets[target] for target in order if matches(name, target)), None)

    def schemes(self, model: nn.Module, headers: Headers) -> dict[str, Scheme]:
        found = {name: scheme for name, _ in plain_maps(model) if (scheme := self.scheme(name)) is not None}
        for name, scheme in found.items():
            scale = headers.get(f"{name}.weight_scale")
            if scale is not None and scale.dtype in SCALES:
                found[name] = replace(scheme, scale_dtype=scale.dtype)
        return found

    def stored(self, name: str, linear: QuantizedLinear, headers: Headers, whole: Whole) -> Stored:
        targets = {f".{own}": tensor for own, tensor in linear.named_buffers()}
        if not isinstance(linear, Int4Linear):
            return Stored(targets)
        device = "meta" if linear.weight_packed.is_meta else "cpu"
        shape = torch.empty(2, dtype=torch.int64, device=device)
        return Stored({**targets, ".weight_shape": shape}, lambda: check_shape(shape, whole))


LINEAR = "Linear"
"""The target of all linear maps."""


def matches(name: str, target: str) -> bool:
    """Whether a target is that of a map.

    Raises:
        CheckpointError: its pattern takes too long.
    """
    if not target.startswith(REGEX):
        return target in (name, LINEAR)
    try:
        return regex.match(target.removeprefix(REGEX), name, timeout=MATCH_SECONDS) is not None
    except TimeoutError as error:
        raise CheckpointError(
            f"{target!r:.60} takes more than {MATCH_SECONDS:g} s to be matched with {name}; simplify the pattern"
        ) from error


def check_shape(shape: Tensor, whole: Whole) -> None:
    """Refuse a `weight_shape` that is not the map's.

    Raises:
        CheckpointError: it is another.
    """
    if shape.tolist() != [whole.out_features, whole.in_features]:
        raise CheckpointError(f"weight_shape is {shape.tolist()}, expected [{whole.out_features}, {whole.in_features}]")


def read(config: Mapping[str, Any]) -> CompressedTensors:
    """Read a `quantization_config`.

    Raises:
        CheckpointError: it is malformed, or asks for what is not supported; the message says what.
    """
    groups = _mapping("config_groups", config.get("config_groups"))
    whole = config.get("format")
    for name in ("kv_cache_scheme", "transform_config"):
        if config.get(name):
            raise CheckpointError(f"{name} is set")
    sparsity = config.get("sparsity_config") or {}
    if _mapping("sparsity_config", sparsity).get("format", "dense") != "dense":
        raise CheckpointError(f"sparsity_config has the format {sparsity['format']!r:.40}")
    if config.get("quantization_status", "compressed") != "compressed":
        raise CheckpointError(f"quantization_status is {config['quantization_status']!r:.40}, not 'compressed'")
    targets: dict[str, Scheme] = {}
    for name, group in groups.items():
        if isinstance(group, list):
            if name.upper() not in PRESETS:
                raise CheckpointError(f"the group {name!r:.40} is none of {', '.join(PRESETS)}")
            group = {"targets": group, **PRESETS[name.upper()]}
        group = _mapping(f"the group {name!r:.40}", group)
        scheme = _scheme(group)
        form = group.get("format") or whole
        if form not in FORMATS[scheme.kind]:
            raise CheckpointError(
                f"the format of {scheme.kind.upper()} weights is {form!r:.40}, not {' or '.join(FORMATS[scheme.kind])}"
            )
        targets |= dict.fromkeys(_targets("targets", group.get("targets")), scheme)
    return CompressedTensors(targets, tuple(_targets("ignore", config.get("ignore") or [])))


def describe(schemes: Schemes, left: Sequence[str]) -> dict[str, Any]:
    """Return the `quantization_config` of a checkpoint whose maps are quantized by `own_schemes`, in FP8 or INT4.

    Args:
        left: maps of `TEXT_MAPS` that are not quantized.
    """
    kinds = {name: scheme.kind for name, scheme in schemes.items()}
    groups = []
    for scheme in dict.fromkeys(schemes.values()):  # The text maps', then the head's, unless they are the same.
        text = any(schemes[name] == scheme for name in kinds if name != HEAD)
        targets = [f"{REGEX}{TEXT_MAPS.pattern}$"] * text + [HEAD] * (schemes.get(HEAD) == scheme)
        preset = PRESETS["FP8_DYNAMIC" if scheme.kind == "fp8" else "W4A16"]
        weights = {**preset["weights"], **({"group_size": scheme.group} if scheme.kind == "int4" else {})}
        groups.append({**preset, "targets": targets, "weights": weights, "format": FORMATS[scheme.kind][0]})
    formats = {group["format"] for group in groups}
    return {
        "quant_method": METHOD,
        "quantization_status": "compressed",
        "format": MIXED if len(formats) > 1 else formats.pop(),
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "ignore": list(left),
    }


def _scheme(group: Mapping[str, Any]) -> Scheme:
    """The scheme of a group's weights."""
    weights, inputs = _mapping("weights", group.get("weights")), group.get("input_activations")
    bits, kind, size = weights.get("num_bits", 8), weights.get("type", "int"), weights.get("group_size")
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    if weights.get("symmetric", True) is not True:
        raise CheckpointError("weights are asymmetric (zero points); supported are symmetric ones")
    if weights.get("actorder") not in (None, False, "weight", "static"):
        raise CheckpointError(f"actorder is {weights['actorder']!r:.40}; supported are weights in their own order")
    if weights.get("dynamic", False) is not False:
        raise CheckpointError("weights are dynamic")
    if group.get("output_activations"):
        raise CheckpointError("output_activations are quantized")
    if (bits, kind, strategy) == (8, "float", "channel"):
        if inputs and _mapping("input_activations", inputs).get("dynamic") is not True:
            raise CheckpointError("input_activations are not dynamic")
        return Scheme("fp8")
    if (bits, kind, strategy) == (4, "int", "group") and not inputs:
        if type(size) is not int or size not in GROUPS:
            raise CheckpointError(f"group_size is {size!r:.40}; supported are {', '.join(map(str, GROUPS))}")
        return Scheme("int4", size)
    told = f"{strategy} of {size}" if strategy == "group" else strategy
    also = " with quantized input_activations" if inputs else ""
    raise CheckpointError(f"weights are of {bits!r:.20} bits ({kind!s:.20}), strategy {told!s:.40}{also}")


def _mapping(name: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{name} is {given!r:.60}, not an object {{…}}")
    return given


def _targets(name: str, given: Any) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise CheckpointError(f"{name} is {given!r:.60}, not a list of names")
    for one in given:
        if one.startswith(REGEX):
            try:
                regex.compile(one.removeprefix(REGEX))
            except (regex.error, RecursionError) as error:
                raise CheckpointError(f"{name} has {one!r:.60}, which is no pattern ({error})") from error
    return given
