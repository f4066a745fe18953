"""Shapes as signed distances: negative inside, positive outside, in units of the radius around them.

Distances of polygons and stars are those to the lines through their sides, which is exact where a side is nearest: all
that smooth edges need. After I. Quilez, "2D distance functions".
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def _disc(x: Tensor, y: Tensor, radius: float = 1.0) -> Tensor:
    return torch.hypot(x, y) - radius


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _polygon(x: Tensor, y: Tensor, corners: int, inner: float) -> Tensor:
    """A star whose outer corners are at 1, one of them above, and whose inner ones are at `inner`."""
    half = math.pi / corners
    # Folded onto the half of one corner, which lies along the axis u; v is beside it.
    turned = torch.atan2(x, -y)
    folded = (torch.remainder(turned + half, 2 * half) - half).abs()
    length = torch.hypot(x, y)
    u, v = length * folded.cos(), length * folded.sin()
    # The side goes from (1, 0) to (inner cos half, inner sin half).
    du, dv = inner * math.cos(half) - 1, inner * math.sin(half)
    return ((u - 1) * dv - v * du) / math.hypot(du, dv)


def _regular(corners: int) -> Distance:
    inner = math.cos(math.pi / corners)
    return lambda x, y: _polygon(x, y, corners, inner)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.33), _box(x, y, 0.33, 0.95))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.76).abs() - 0.22


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_disc(x, y, 0.98), -_disc(x - 0.5, y, 0.78))


def _heart(x: Tensor, y: Tensor, half: float = 0.8) -> Tensor:
    """A square that stands on its corner, with a disc over each of its upper sides."""
    x, y = x.abs(), y - 0.08
    return torch.minimum(_disc(x - half / 2, y + half / 2, half / math.sqrt(2)), (x + y.abs() - half) / math.sqrt(2))


KINDS: dict[str, Distance] = {
    "circle": lambda x, y: _disc(x, y, 0.95),
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "triangle": _regular(3),
    "pentagon": _regular(5),
    "star": lambda x, y: _polygon(x, y, 5, 0.42),
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
    "diamond": lambda x, y: (x.abs() / 0.62 + y.abs() - 1) / math.hypot(1 / 0.62, 1),
}
