"""Shapes as signed distance functions: negative inside, positive outside, in units of the circumscribed radius.

A shape has the symmetry of a regular polygon. Points are folded onto half of one corner's sector, `u` along its axis,
`v` across. There a shape has at most three edges, lines or arcs, so that one formula, with parameters for each kind,
draws all kinds at once.

Distances are to whole lines and circles, exact near an edge, which suffices for antialiasing. After I. Quilez, "2D
distance functions".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Edge(NamedTuple):
    """An edge, of signed distance along · u + beside · v + bend · |(u, v) - (centre_u, centre_v)| - offset."""

    along: float = 0.0
    beside: float = 0.0
    bend: float = 0.0
    centre_u: float = 0.0
    centre_v: float = 0.0
    offset: float = -1e3


NONE = Edge()
"""An edge that every point is far outside of."""


class Shape(NamedTuple):
    """The intersection of its edges' insides, united with the inside of `joined`.

    Args:
        corners: order of the rotational symmetry.
        edges: one or two.
        joined: a further edge; its inside is added.
        turn: angle of the first corner, in turns clockwise from the top.
    """

    corners: int
    edges: tuple[Edge, ...]
    joined: Edge = NONE
    turn: float = 0.0

    def numbers(self) -> list[float]:
        """Return the parameters for `distance`."""
        first, last = self.edges[0], self.edges[-1]
        return [math.pi / self.corners, 2 * math.pi * self.turn, *first, *last, *self.joined]


def distance(shapes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distances of points from shapes, float32 (…), in radii.

    Args:
        shapes: float32 (numbers, …), of `Shape.numbers`.
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
    """Return the line through two points (u, v); its inside is on the left, with u to the right and v up."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along, beside = dv / math.hypot(du, dv), -du / math.hypot(du, dv)
    return Edge(along, beside, offset=along * start[0] + beside * start[1])


def _disc(radius: float, u: float = 0.0, v: float = 0.0) -> Edge:
    """Return a circle whose inside is the disc."""
    return Edge(0, 0, 1, u, v, radius)


def _hole(radius: float, u: float = 0.0, v: float = 0.0) -> Edge:
    """Return a circle whose inside is all but the disc."""
    return Edge(0, 0, -1, u, v, -radius)


def _star(corners: int, inner: float) -> Shape:
    """Return a star: outer corners at radius 1, the first at the top, inner corners at radius `inner`."""
    half = math.pi / corners
    return Shape(corners, (_line((1, 0), (inner * math.cos(half), inner * math.sin(half))),))


def _regular(corners: int) -> Shape:
    return _star(corners, inner=math.cos(math.pi / corners))


def _heart(half: float = 0.8, down: float = 0.08) -> Shape:
    """Return a square standing on a corner, with a disc on each upper side."""
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
