"""Base of linear maps with quantized weights: what they are to the model, whatever their weights look like."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossvl.errors import CheckpointError

CHUNK = 2**21
"""Values that are quantized at a time, so that what is computed on the way takes little memory."""


class QuantizedLinear(nn.Linear, ABC):
    """x · weightᵀ with a quantized weight, (out features, in features), and without a bias.

    The weight is kept in buffers, which `.to(dtype)`, `.half()` and the like move but never cast. `forward` is the
    reference: the product with `dequantized` weights, on any device. Gradients pass to x, not to the weight. PEFT puts
    adapters around it, as around every `nn.Linear`.
    """

    keeps_dtypes = True
    """For `mossvl.offline.empty.cast`."""
    compute_dtype = torch.float32
    """The dtype of adapters; PEFT reads it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)  # Not that of `nn.Linear`, which makes a weight.
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", None)

    @abstractmethod
    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight, (out features, in features), computed in float32 and rounded to `dtype`."""

    @abstractmethod
    def _put(self, start: int, rows: Tensor) -> None:
        """As `put`, for rows that are few."""

    @torch.no_grad()
    def put(self, start: int, rows: Tensor) -> None:
        """Quantize rows of a weight, (rows, in features) on the device of the buffers, into rows from `start` on."""
        step = max(1, CHUNK // self.in_features)
        for first in range(0, len(rows), step):
            self._put(start + first, rows[first : first + step])

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Return the map of a weight, (out features, in features), on the weight's device."""
        out_features, in_features = weight.shape
        with torch.device(weight.device):
            made = cls(in_features, out_features)
        made.put(0, weight)
        return made

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if x.requires_grad and torch.is_grad_enabled():
            return _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return F.linear(x, self.dequantized(x.dtype))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(kept, recurse)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Rows:
    """Rows of a map that are to be quantized: to those who fill it, a tensor of unquantized weights.

    Attributes:
        start, stop: the rows; the index after the last.
    """

    linear: QuantizedLinear
    start: int
    stop: int
    dtype = torch.bfloat16

    @classmethod
    def of(cls, linear: QuantizedLinear) -> "Rows":
        """All rows of a map."""
        return cls(linear, 0, linear.out_features)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.stop - self.start, self.linear.in_features))

    @property
    def device(self) -> torch.device:
        return next(self.linear.buffers()).device

    @property
    def is_meta(self) -> bool:
        return self.device.type == "meta"

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "Rows":
        start, stop, _ = part.indices(len(self))
        return Rows(self.linear, self.start + start, self.start + stop)

    def copy_(self, source: Tensor, non_blocking: bool = False) -> None:
        """Quantize a tensor of this shape into the rows."""
        self.linear.put(self.start, source.to(self.device, non_blocking=non_blocking))


class _Product(torch.autograd.Function):
    """x · weightᵀ; the backward pass dequantizes the weight again, so that no pass keeps it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantizedLinear) -> Tensor:
        ctx.linear = linear
        return F.linear(x, linear.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.linear.dequantized(grad.dtype), None


def check_divides(parts: int, features: int, kind: str) -> None:
    """Refuse a number of in features that is not a multiple of `parts`.

    Raises:
        CheckpointError: it is none.
    """
    if features % parts:
        raise CheckpointError(f"a weight of {features} in features cannot be {kind}, which needs a multiple of {parts}")
