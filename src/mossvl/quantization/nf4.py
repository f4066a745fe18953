"""Linear maps with weights in NF4: 16 quantiles of normal weights (arXiv:2305.14314), packed as in bitsandbytes."""

import torch
from torch import Tensor

from mossvl.quantization.linear import QuantizedLinear, check_divides

BLOCK = 64
"""Adjacent weights, of the flattened matrix, that share a magnitude."""
CODES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The values of the 16 codes."""


class Nf4Linear(QuantizedLinear):
    """Values of codes, times the magnitude of their block.

    weight, uint8 (out, in / 2), holds two codes a byte, the first in the high bits; absmax, float32 (out · in / 64,),
    the largest magnitude of each block of the flattened weight.

    Raises:
        CheckpointError: the in features are odd, or the weights not a multiple of the block.
    """

    weight: Tensor
    absmax: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        check_divides(2, in_features, "packed in bytes of two")
        if in_features * out_features % BLOCK:
            check_divides(BLOCK, in_features, f"NF4 in blocks of {BLOCK}")
        super().__init__(in_features, out_features)
        self.register_buffer("weight", torch.empty(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("absmax", torch.empty(out_features * in_features // BLOCK, dtype=torch.float32))

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        codes = torch.stack((self.weight >> 4, self.weight & 15), dim=-1).view(-1, BLOCK)
        table = torch.tensor(CODES, dtype=torch.float32, device=self.weight.device)
        values = table[codes.int()] * self.absmax[:, None]
        return values.view(self.out_features, self.in_features).to(dtype)

    def _put(self, start: int, rows: Tensor) -> None:
        """As `QuantizedLinear.put`.

        Raises:
            CheckpointError: the rows do not begin and end with a block.
        """
        first, size = start * self.in_features, len(rows) * self.in_features
        if first % BLOCK or size % BLOCK:
            check_divides(BLOCK, self.in_features, f"NF4 in rows, which needs whole blocks of {BLOCK}")
        weight, absmax = quantized(rows)
        self.weight[start : start + len(rows)] = weight
        self.absmax[first // BLOCK : (first + size) // BLOCK] = absmax


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows, (rows, in features), to (packed uint8 (rows, in / 2), float32 magnitudes (blocks,)).

    Each value becomes the nearest code, the lower of two equally near; the bytes are those of bitsandbytes on a CPU.
    """
    blocks = rows.to(torch.float32).reshape(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]
    codes = torch.tensor(CODES, dtype=torch.float32, device=rows.device)
    found = torch.bucketize(scaled, (codes[:-1] + codes[1:]) / 2, out_int32=True).to(torch.uint8).view(-1, 2)
    return (found[:, 0] << 4 | found[:, 1]).view(len(rows), -1), absmax
