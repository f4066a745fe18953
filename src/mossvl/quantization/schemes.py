"""Which linear maps of a model are quantized, and how."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mossvl.errors import CheckpointError
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import GROUPS, Int4Linear
from mossvl.quantization.int8 import Int8Linear
from mossvl.quantization.linear import QuantizedLinear
from mossvl.quantization.nf4 import BLOCK, Nf4Linear

HEAD = "lm_head"
TEXT_MAPS = re.compile(
    r"(.*\.)?language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|cross_attn\.[qo]_proj|mlp\.(gate|up|down)_proj)"
)
"""Names of the maps that are quantized at load, apart from the head: those that text tokens pass.

Keys and values of vision tokens are computed once and read by every later token; with the vision tower, the merger and
the embeddings, their maps keep their dtype.
"""


@dataclass(frozen=True)
class Scheme:
    """How the weight of a map is quantized.

    Attributes:
        kind: "fp8", "int8", "int4" or "nf4".
        group: of INT4, the number of adjacent weights with one scale.
        scale_dtype: of FP8 and INT4, the dtype of scales.
    """

    kind: str
    group: int = GROUPS[0]
    scale_dtype: torch.dtype = torch.bfloat16

    def linear(self, in_features: int, out_features: int) -> QuantizedLinear:
        """A map on the default device, whose buffers have no values yet.

        Raises:
            CheckpointError: a map of this size cannot be quantized so.
        """
        if self.kind == "fp8":
            return Fp8Linear(in_features, out_features, self.scale_dtype)
        if self.kind == "int8":
            return Int8Linear(in_features, out_features)
        if self.kind == "int4":
            return Int4Linear(in_features, out_features, self.group, self.scale_dtype)
        return Nf4Linear(in_features, out_features)


Schemes = Mapping[str, Scheme]
"""The schemes of maps, by the maps' names."""


def plain_maps(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear maps of a model with their names, without a head that is tied to the embeddings."""
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    for name, module in model.named_modules():
        plain = isinstance(module, nn.Linear) and not isinstance(module, QuantizedLinear)
        if plain and not (tied and name == HEAD):
            yield name, module


def own_schemes(model: nn.Module, kind: str) -> dict[str, Scheme]:
    """The schemes of quantization at load: `TEXT_MAPS` in a kind, the head in INT8 beside INT8, else in FP8.

    Left as they are: a head that is tied to the embeddings, maps with a bias, and maps whose in features do not divide.
    INT4 has the largest of `GROUPS` that divides the in features of all maps; if there is none, the smallest.
    """
    plain = {name: one for name, one in plain_maps(model) if one.bias is None}
    text = {name: one.in_features for name, one in plain.items() if TEXT_MAPS.fullmatch(name)}
    group = 1
    if kind == "int4":
        group = next((size for size in GROUPS if not any(width % size for width in text.values())), GROUPS[-1])
    elif kind == "nf4":
        group = BLOCK
    scheme = Scheme(kind, group) if kind == "int4" else Scheme(kind)
    schemes = {name: scheme for name, width in text.items() if not width % group}
    if HEAD in plain:
        schemes[HEAD] = Scheme("int8" if kind == "int8" else "fp8")
    return schemes


def left_plain(model: nn.Module) -> list[str]:
    """The names of `TEXT_MAPS` of a quantized model that are not quantized."""
    return [name for name, _ in plain_maps(model) if TEXT_MAPS.fullmatch(name)]


def replace(model: nn.Module, schemes: Schemes) -> None:
    """Put quantized maps without values in place of linear maps, on their devices.

    Raises:
        CheckpointError: a map has a bias, or its size does not divide.
    """
    for name, scheme in schemes.items():
        above, _, last = name.rpartition(".")
        parent = model.get_submodule(above)
        plain = getattr(parent, last)
        if plain.bias is not None:
            raise CheckpointError(f"{name} has a bias; quantized weights are supported in maps without one")
        try:
            with torch.device(plain.weight.device):
                setattr(parent, last, scheme.linear(plain.in_features, plain.out_features))
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error


def quantized_maps(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    """Yield the quantized maps of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            yield name, module


def scheme_of(linear: QuantizedLinear) -> Scheme:
    """The scheme of a quantized map."""
    if isinstance(linear, Int4Linear):
        return Scheme("int4", linear.group, linear.weight_scale.dtype)
    if isinstance(linear, Fp8Linear):
        return Scheme("fp8", scale_dtype=linear.weight_scale.dtype)
    if isinstance(linear, Int8Linear):
        return Scheme("int8")
    return Scheme("nf4")


def num_weights(module: nn.Module) -> int:
    """The number of parameters of a module, and of weights that are quantized."""
    quantized = sum(one.in_features * one.out_features for _, one in quantized_maps(module))
    return quantized + sum(parameter.numel() for parameter in module.parameters())


def stored_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of a module."""
    return sum(tensor.nbytes for tensors in (module.parameters(), module.buffers()) for tensor in tensors)


def main_kind(schemes: Iterable[Scheme]) -> str | None:
    """The kind of most maps; None if there is none."""
    kinds = [scheme.kind for scheme in schemes]
    return max(sorted(set(kinds)), key=kinds.count, default=None)
