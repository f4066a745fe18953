"""Checkpoints of bitsandbytes: NF4 in blocks of 64, with magnitudes as they are, or quantized in turn."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mossvl.errors import CheckpointError
from mossvl.quantization.formats import Headers, Stored, Target, Whole
from mossvl.quantization.linear import QuantizedLinear
from mossvl.quantization.nf4 import BLOCK, CODES, Nf4Linear
from mossvl.quantization.schemes import Scheme, plain_maps

METHOD = "bitsandbytes"
FLOAT32 = torch.finfo(torch.float32)
NESTED_BLOCK = 256
"""Adjacent magnitudes that share a magnitude of their own, if they are quantized."""
STATE = ".weight.quant_state.bitsandbytes__nf4"


@dataclass(frozen=True)
class BitsAndBytes:
    """The format; which maps are quantized is told by the tensors."""

    told = f"NF4, {METHOD}"

    def schemes(self, model: nn.Module, headers: Headers) -> dict[str, Scheme]:
        stored = {name: headers.get(f"{name}.weight") for name, _ in plain_maps(model)}
        return {name: Scheme("nf4") for name, info in stored.items() if info and info.dtype == torch.uint8}

    def stored(self, name: str, linear: QuantizedLinear, headers: Headers, whole: Whole) -> Stored:
        if not isinstance(linear, Nf4Linear):
            return Stored({f".{own}": tensor for own, tensor in linear.named_buffers()})
        absmax = headers.get(f"{name}.weight.absmax")
        nested = f"{name}.weight.nested_absmax" in headers or (absmax is not None and absmax.dtype == torch.uint8)
        state = headers.get(f"{name}{STATE}")
        parts = _Parts(linear, whole, nested, 0 if state is None else math.prod(state.shape))
        return Stored(parts.targets, parts.finish)


class _Parts:
    """The tensors that a checkpoint has for a map.

    Args:
        whole: of which the map is a part: magnitudes of magnitudes are those of the whole.
        nested: magnitudes are quantized.
        size: bytes of the description.
    """

    def __init__(self, linear: Nf4Linear, whole: Whole, nested: bool, size: int) -> None:
        self.linear, self.whole, self.nested = linear, whole, nested
        device, blocks = "meta" if linear.weight.is_meta else "cpu", len(linear.absmax)

        def empty(count: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(count, dtype=dtype, device=device)

        self.state, self.codes = empty(size, torch.uint8), empty(len(CODES), torch.float32)
        self.targets: dict[str, Target] = {
            ".weight": linear.weight.view(-1, 1),
            ".weight.absmax": linear.absmax,
            ".weight.quant_map": self.codes,
            STATE: self.state,
        }
        if nested:
            self.absmax, self.values = empty(blocks, torch.uint8), empty(256, torch.float32)
            of_whole = whole.out_features * whole.in_features // BLOCK
            self.scales = empty(-(-of_whole // NESTED_BLOCK), torch.float32)
            self.targets |= {
                ".weight.absmax": self.absmax,
                ".weight.nested_absmax": self.scales,
                ".weight.nested_quant_map": self.values,
            }

    def finish(self) -> None:
        """Check the description, and compute magnitudes that are quantized.

        Raises:
            CheckpointError: the weight is described otherwise than it is read.
        """
        told = _described(self.state)
        expected: dict[str, Any] = {
            "quant_type": "nf4",
            "blocksize": BLOCK,
            "shape": [self.whole.out_features, self.whole.in_features],
        }
        expected |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"} if self.nested else {}
        for name, value in expected.items():
            if told.get(name) != value:
                raise CheckpointError(f"quant_state has {name} {told.get(name)!r:.60}, expected {value!r}")
        if not torch.allclose(self.codes, torch.tensor(CODES), rtol=0, atol=1e-6):
            raise CheckpointError(f"quant_map is {self.codes.tolist()!s:.60}…, expected the 16 values of NF4")
        if self.nested:
            offset = told.get("nested_offset")
            if not isinstance(offset, int | float) or offset is True or not abs(offset) <= FLOAT32.max:
                raise CheckpointError(f"quant_state has nested_offset {offset!r:.60}, expected a number")
            scales = self.scales[self._blocks() // NESTED_BLOCK]
            self.linear.absmax.copy_(self.values[self.absmax.int()] * scales + offset)

    def _blocks(self) -> Tensor:
        """The places of the map's blocks among those of the whole, (blocks,) int64."""
        if self.whole.in_features == self.linear.in_features:  # Blocks may go beyond a row.
            first = self.whole.row * self.linear.in_features // BLOCK
            return torch.arange(first, first + len(self.absmax))
        rows = torch.arange(self.linear.out_features)[:, None] * (self.whole.in_features // BLOCK)
        columns = torch.arange(self.linear.in_features // BLOCK) + self.whole.column // BLOCK
        return (rows + columns).flatten()


def _described(state: Tensor) -> Mapping[str, Any]:
    """The content of a description, JSON in bytes."""
    try:
        found = json.loads(bytes(state.tolist()))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"quant_state is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"quant_state is {found!r:.60}, not an object {{…}}")
    return found


def read(config: Mapping[str, Any]) -> BitsAndBytes:
    """Read a `quantization_config`.

    Raises:
        CheckpointError: it asks for what is not supported; the message says what.
    """
    if config.get("load_in_8bit"):
        raise CheckpointError("weights are of 8 bits (load_in_8bit); supported is NF4")
    if (kind := config.get("bnb_4bit_quant_type", "fp4")) != "nf4":
        raise CheckpointError(f"bnb_4bit_quant_type is {kind!r:.40}; supported is 'nf4'")
    if (storage := config.get("bnb_4bit_quant_storage", "uint8")) != "uint8":
        raise CheckpointError(f"bnb_4bit_quant_storage is {storage!r:.40}; supported is 'uint8'")
    return BitsAndBytes()
