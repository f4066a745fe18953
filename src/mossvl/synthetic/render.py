"""Rendering of scenes in batches, on any device, with equal results up to rounding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mossvl.synthetic import lettering
from mossvl.synthetic.drawing import Drawing, drawing
from mossvl.synthetic.glyphs import COLUMNS, ROWS
from mossvl.synthetic.grounds import background, chosen
from mossvl.synthetic.points import Points, whole
from mossvl.synthetic.scene import DOT, LONGEST, TEXTURES, Scene
from mossvl.synthetic.shapes import distance

RUN = 16
"""Scenes that `render` draws in one batch, to bound memory."""
LETTER = DOT * ROWS / lettering.CAPITAL
"""A row of a bitmap of a word in a font, in radii: capitals are as high as those of dots."""
STRIPES = 5
"""Stripes, or dots, across a thing."""


def render(scenes: Sequence[Scene], height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw scenes.

    Args:
        scenes: may have different numbers of things.
        height, width: pixels of each picture.

    Returns:
        uint8 (scenes, height, width, 3), sRGB.
    """
    runs = [scenes[start : start + RUN] for start in range(0, len(scenes) or 1, RUN)]
    return torch.cat([draw(drawing(run).to(device), whole(height, width, device)) for run in runs])


def draw(drawn: Drawing, points: Points) -> Tensor:
    """Draw scenes given as tensors, on their device.

    The operations depend on shapes alone and never synchronise; `torch.compile` fuses them into four GPU kernels.

    Args:
        drawn: the scenes.
        points: the pixels of each scene.

    Returns:
        uint8 (scenes, rows, columns, 3), sRGB.
    """
    marked, edged, cover = _things(drawn, points)
    picture = background(drawn.grounds, drawn.colours[:, 0], points)
    for layer in range(drawn.layers):
        plain, marks, border = drawn.colours[:, layer + 1, :, :, None, None].unbind(1)
        thing = torch.lerp(torch.lerp(plain, marks, marked[:, None, layer]), border, edged[:, None, layer])
        picture = torch.lerp(picture, thing, cover[:, None, layer])
    return picture.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# --- things ------------------------------------------------------------------------------------------------------


def _things(drawn: Drawing, points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shares of the marks' and of the border's colour, and the coverage of each thing, all (scenes, layers,
    rows, columns)."""
    places = drawn.places[..., None, None].unbind(2)
    radius, texture, middle, edge, hollow = places[6:]
    apart = Points(*(one[:, None] for one in points))  # a layer beside another
    own_x, own_y = _own(places, apart)
    outside = distance(drawn.shapes.movedim(2, 0)[..., None, None], own_x, own_y)
    outside = torch.where(_dotted(drawn.words, middle, own_x, own_y), -1.0, outside)
    if drawn.layers:
        layer, number, columns = drawn.written[..., None, None].unbind(1)
        writing = drawn.places.gather(1, layer.expand(-1, -1, drawn.places.shape[2]))[:, 0, :, None, None].unbind(1)
        lettered = _lettered(drawn.bitmaps, number, columns, *_own(writing, points))
        here = torch.arange(drawn.layers, device=layer.device)[:, None, None] == layer[:, None]
        outside = torch.where(here & (columns[:, None] > 0), lettered[:, None], outside)
    cover, core = ((0.5 - one * radius * apart.side).clamp(0, 1) for one in (outside, outside + edge))
    return _marked(texture, own_x, own_y), (edge > 0) * (1 - core), cover - hollow * core


def _own(places: Sequence[Tensor], points: Points) -> tuple[Tensor, Tensor]:
    """Return points in the things' own coordinates, x to the right and y down, from -1 to 1."""
    place_x, place_y, cosine_x, sine_x, cosine_y, sine_y, *_ = places
    wide, high = points.width / points.side, points.height / points.side
    dx, dy = points.x - wide * place_x, points.y - high * place_y
    return dx * cosine_x + dy * sine_x, dy * cosine_y - dx * sine_y


def _lettered(bitmaps: Tensor, number: Tensor, filled: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the distances of points from words in fonts, float32 (scenes, rows, columns), in radii: interpolated."""
    _, rows, columns = bitmaps.shape
    column = (x / LETTER + filled / 2 - 0.5).clamp(0, columns - 1.001)
    row = (y / LETTER + lettering.BASELINE - lettering.CAPITAL / 2 - 0.5).clamp(0, rows - 1.001)
    left, top = column.long(), row.long()
    first = (number * rows + top) * columns + left
    flat = bitmaps.flatten()
    a, b, c, d = (flat[first + step].float() for step in (0, 1, columns, columns + 1))
    across, down = column - left, row - top
    value = torch.lerp(torch.lerp(a, b, across), torch.lerp(c, d, across), down)
    return (128 - value) / lettering.STEPS * LETTER


def _dotted(words: Tensor, middle: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Whether a point lies on a dot of a word."""
    column = (x / DOT + middle).floor().clamp(-1, LONGEST * (COLUMNS + 1) - 1).int() + 1
    row = (y / DOT + ROWS / 2).floor().clamp(-1, ROWS).long() + 1
    dots = words.gather(2, row.flatten(2)).view_as(row)
    return (dots >> column) & 1 == 1


def _marked(texture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return 1 on a stripe or dot of the texture, else 0."""
    across, down = (torch.remainder((axis + 1) * STRIPES / 2, 1) for axis in (x, y))
    marks = {
        "plain": torch.zeros_like(x, dtype=torch.bool),
        "striped": across < 0.42,
        "dotted": torch.hypot(across - 0.5, down - 0.5) < 0.3,
    }
    return chosen(texture, [marks[name] for name in TEXTURES]).float()
