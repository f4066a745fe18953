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


def _cross(arm: float) -> Shape:
    return Shape(4, (_line((0.95, 0), (0.95, arm)), _line((0.95, arm), (arm, arm))))


def _ring(hole: float) -> Shape:
    return Shape(1, (_disc(0.98), _hole(hole)))


def _crescent(hole: float, beside: float, turn: float = 0.25) -> Shape:
    return Shape(1, (_disc(0.98), _hole(hole, beside)), turn=turn)


def _curved_heart(tip: float, disc: float, beside: float, up: float) -> Shape:
    """Return a heart of two discs of radius `disc`, `beside` the axis and `up` from the centre, whose sides go straight
    from a disc to the `tip`, below the centre."""
    away = math.hypot(up + tip, beside)
    lean, half = math.atan2(beside, up + tip), math.asin(disc / away)
    length = math.sqrt(away**2 - disc**2)
    touch = (length * math.cos(lean + half) - tip, length * math.sin(lean + half))
    cleft = (up + math.sqrt(max(disc**2 - beside**2, 0.0)), 0.0)
    return Shape(1, (_line(cleft, touch), _line(touch, (-tip, 0.0))), joined=_disc(disc, up, beside))


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
    "cross": _cross(0.33),
    "ring": _ring(0.54),
    "heart": _heart(),
    "crescent": _crescent(0.78, 0.5),
    "diamond": _star(2, 0.62),
}
_STARS = (
    *((5, 0.38), (5, 0.5), (5, 0.3), (5, 0.56), (4, 0.4), (4, 0.28), (4, 0.5)),
    *((6, 0.577), (6, 0.45), (7, 0.5), (8, 0.6), (8, 0.45), (10, 0.65)),
)
_HEARTS = ((0.98, 0.44, 0.42, 0.38), (0.9, 0.5, 0.44, 0.3), (0.98, 0.5, 0.46, 0.42), (0.85, 0.42, 0.4, 0.35))
_CRESCENTS = ((0.78, 0.5), (0.88, 0.4), (0.7, 0.48), (0.92, 0.3), (0.85, 0.55), (0.98, 0.5), (0.66, 0.4))
VARIANTS: dict[str, tuple[Shape, ...]] = {
    **{kind: (shape,) for kind, shape in KINDS.items()},
    "star": (KINDS["star"], *(_star(*given) for given in _STARS)),
    "cross": (KINDS["cross"], *(_cross(arm) for arm in (0.18, 0.24, 0.28, 0.38, 0.44))),
    "ring": (KINDS["ring"], *(_ring(hole) for hole in (0.35, 0.42, 0.48, 0.6, 0.66, 0.7))),
    "heart": (KINDS["heart"], *(_curved_heart(*given) for given in _HEARTS)),
    "crescent": (*(_crescent(*given, turn=turn) for turn in (0.25, 0.75) for given in _CRESCENTS),),
    "diamond": (KINDS["diamond"], *(_star(2, ratio) for ratio in (0.45, 0.52, 0.7, 0.78))),
}
"""The shapes that a kind may have, first the usual one."""
NOTHING = Shape(1, (NONE,))
