"""Writes the files of `foreign/`, with the packages whose formats they have; tests read them without the packages.

`python tests/quantization/foreign.py`, where compressed-tensors 0.20.1 and bitsandbytes 0.50.2 are installed.
"""

from pathlib import Path

import torch
from bitsandbytes import functional as bnb
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file
from torch import Tensor

FOREIGN = Path(__file__).parent / "foreign"
FP8 = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)


def int4_of(group: int) -> QuantizationArgs:
    return QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=group, symmetric=True)


def weights() -> Tensor:
    """bfloat16 (9, 192): of several magnitudes, a row of zeros, rows with outliers."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 192, generator=generator) * torch.logspace(-6, 3, 9)[:, None]
    rows[3] = 0
    rows[5, ::50] *= 40
    rows[6, 64:128] = 0
    return rows.bfloat16()


def fp8(weight: Tensor) -> dict[str, Tensor]:
    scale, zero = calculate_qparams(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), FP8)
    data = quantize(weight, scale, zero, FP8, dtype=torch.float8_e4m3fn)
    return {"weight": data, "weight_scale": scale, "dequantized": dequantize(data, scale, None, FP8)}


def int4(weight: Tensor, group: int) -> dict[str, Tensor]:
    args, groups = int4_of(group), weight.unflatten(1, (-1, group))
    scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), args)
    data = quantize(weight, scale, zero, args, dtype=torch.int8)
    return {
        "weight_packed": pack_to_int32(data, 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
        "dequantized": dequantize(data, scale, None, args),
    }


def nf4(weight: Tensor, nested: bool) -> dict[str, Tensor]:
    data, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")
    return {"weight": data, **{f"weight.{name}": one for name, one in state.as_dict(packed=True).items()}} | {
        "dequantized": bnb.dequantize_4bit(data, state)
    }


def main() -> None:
    weight = weights()
    kinds = {
        "fp8": fp8(weight),
        **{f"int4-{group}": int4(weight, group) for group in (32, 64)},
        "nf4": nf4(weight, nested=True),
        "nf4-plain": nf4(weight, nested=False),
    }
    tensors = {f"{kind}.{name}": one.contiguous() for kind, named in kinds.items() for name, one in named.items()}
    FOREIGN.mkdir(exist_ok=True)
    save_file({"weight": weight, **tensors}, FOREIGN / "maps.safetensors")


if __name__ == "__main__":
    main()
