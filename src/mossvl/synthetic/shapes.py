"""Shapes as signed distances: negative inside, positive outside, in units of the radius around them.

A shape looks the same around each of its corners, and on both sides of one. Points are folded onto one half of one
corner, `u` along its middle and `v` beside it; there a shape has at most three edges, lines and arcs. So one formula,
with numbers of its own for each kind, draws all kinds at once.

Distances are those to lines and arcs, which is exact where an edge is nearest: all that smooth edges need. After
I. Quilez, "2D distance functions".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Edge(NamedTuple):
    """Distance from it: along · u + beside · v + bend · |(u, v) - (centre_u, centre_v)| - offset."""

    along: float = 0.0
    beside: float = 0.0
    bend: float = 0.0
    centre_u: float = 0.0
    centre_v: float = 0.0
    offset: float = -1e3


NONE = Edge()
"""Every point is far outside it."""


class Shape(NamedTuple):
    """What is inside both edges, or inside the one that is joined.

    Args:
        corners: into how many equal parts it is folded.
        edges: one or two.
        joined: another part of it.
        turn: where its first corner is, in turns clockwise from above.
    """

    corners: int
    edges: tuple[Edge, ...]
    joined: Edge = NONE
    turn: float = 0.0

    def numbers(self) -> list[float]:
        """What `distance` takes."""
        first, last = self.edges[0], self.edges[-1]
        return [math.pi / self.corners, 2 * math.pi * self.turn, *first, *last, *self.joined]


def distance(shapes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distances of points from shapes.

    Args:
        shapes: float32 (numbers, …), those of `Shape.numbers`.
        x, y: float32 (…), in radii from the centre; x to the right and y down.
    """
    half, turn = shapes[:2]
    angle = torch.atan2(x, -y) - turn
    folded = (torch.remainder(angle + half, 2 * half) - half).abs()
    length = torch.hypot(x, y)
    u, v = length * folded.cos(), length * folded.sin()
    first, last, joined = (_from_edge(edge, u, v) for edge in shapes[2:].split(len(NONE)))
    return torch.minimum(torch.maximum(first, last), joined)


def _from_edge(edge: Tensor, u: Tensor, v: Tensor) -> Tensor:
    along, beside, bend, centre_u, centre_v, offset = edge
    return along * u + beside * v + bend * torch.hypot(u - centre_u, v - centre_v) - offset


# --- the kinds ---------------------------------------------------------------------------------------------------


def _line(start: tuple[float, float], end: tuple[float, float]) -> Edge:
    """Through two points (u, v); inside is on the left of the way, with u to the right and v up."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along, beside = dv / math.hypot(du, dv), -du / math.hypot(du, dv)
    return Edge(along, beside, offset=along * start[0] + beside * start[1])


def _disc(radius: float, u: float = 0.0, v: float = 0.0) -> Edge:
    return Edge(0, 0, 1, u, v, radius)


def _hole(radius: float, u: float = 0.0, v: float = 0.0) -> Edge:
    return Edge(0, 0, -1, u, v, -radius)


def _star(corners: int, inner: float) -> Shape:
    """Its outer corners are at 1, one of them above, and its inner ones at `inner`."""
    half = math.pi / corners
    return Shape(corners, (_line((1, 0), (inner * math.cos(half), inner * math.sin(half))),))


def _regular(corners: int) -> Shape:
    return _star(corners, inner=math.cos(math.pi / corners))


def _heart(half: float = 0.8, down: float = 0.08) -> Shape:
    """A square that stands on its corner, with a disc over each of its upper sides."""
    above, beside, below = (half - down, 0), (-down, half), (-half - down, 0)
    disc = _disc(half / math.sqrt(2), half / 2 - down, half / 2)
    return Shape(1, (_line(above, beside), _line(beside, below)), joined=disc)


KINDS = {
    "circle": Shape(1, (_disc(0.95),)),
    "square": Shape(4, (_line((0.8, 0), (0.8, 0.8)),)),
    "triangle": _regular(3),
    "pentagon": _regular(5),
    "star": _star(5, 0.42),
    "cross": Shape(4, (_line((0.95, 0), (0.95, 0.33)), _line((0.95, 0.33), (0.33, 0.33)))),
    "ring": Shape(1, (_disc(0.98), _hole(0.54))),
    "heart": _heart(),
    "crescent": Shape(1, (_disc(0.98), _hole(0.78, 0.5)), turn=0.25),
    "diamond": _star(2, 0.62),
}
NOTHING = Shape(1, (NONE,))
