"""Rendering of scenes in batches, on any device, with equal results up to rounding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mossvl.synthetic.drawing import Drawing, drawing
from mossvl.synthetic.glyphs import COLUMNS, ROWS
from mossvl.synthetic.scene import BACKGROUNDS, DOT, LONGEST, TEXTURES, Scene
from mossvl.synthetic.shapes import distance

RUN = 16
"""Scenes that `render` draws in one batch, to bound memory."""
STRIPES = 5
"""Stripes, or dots, across a thing."""
SQUARES = 8
"""Squares of a checked background along the shorter side."""


def render(scenes: Sequence[Scene], height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw scenes.

    Args:
        scenes: may have different numbers of things.
        height, width: pixels of each picture.

    Returns:
        uint8 (scenes, height, width, 3), sRGB.
    """
    runs = [scenes[start : start + RUN] for start in range(0, len(scenes) or 1, RUN)]
    return torch.cat([draw(drawing(run).to(device), height, width) for run in runs])


def draw(drawn: Drawing, height: int, width: int) -> Tensor:
    """Draw scenes given as tensors, on their device.

    The operations depend on shapes alone and never synchronise; `torch.compile` fuses them into four GPU kernels.

    Args:
        drawn: the scenes.
        height, width: pixels of each picture.

    Returns:
        uint8 (scenes, height, width, 3), sRGB.
    """
    side, device = min(height, width), drawn.places.device
    y = ((torch.arange(height, device=device) + 0.5) / side)[:, None]
    x = (torch.arange(width, device=device) + 0.5) / side
    marked, cover = _things(drawn, y, x, height, width)
    picture = _mixed(drawn.colours[:, 0], _background(drawn.grounds, y, x))
    for layer in range(drawn.layers):
        thing = _mixed(drawn.colours[:, layer + 1], marked[:, layer])
        picture = torch.lerp(picture, thing, cover[:, None, layer])
    return picture.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _mixed(colours: Tensor, mix: Tensor) -> Tensor:
    """Interpolate two colours (n, 2, 3) by `mix` (n, height, width), 0 for the first, to (n, 3, height, width)."""
    first, second = colours[..., None, None].unbind(1)
    return torch.lerp(first, second, mix[:, None])


# --- backgrounds -------------------------------------------------------------------------------------------------


def _background(grounds: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the share of the background's second colour, float32 (scenes, height, width)."""
    pattern, seed, cosine, sine = grounds[..., None, None].unbind(1)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    corners = torch.stack([x[a] * cosine + y[b] * sine for a in (0, -1) for b in (0, -1)])
    least, most = corners.amin(0), corners.amax(0)
    mixes = {
        "plain": torch.zeros_like(along),
        "gradient": (along - least) / (most - least),
        "checked": ((along * SQUARES).floor() + (across * SQUARES).floor()) % 2,
        "noisy": _noise(seed.long(), along.shape[1:]),
    }
    return _chosen(pattern, [mixes[name] for name in BACKGROUNDS])


def _chosen(number: Tensor, choices: Sequence[Tensor]) -> Tensor:
    """Return choices[number], elementwise; `number` broadcasts."""
    chosen = choices[0]
    for index, choice in enumerate(choices[1:], 1):
        chosen = torch.where(number == index, choice, chosen)
    return chosen


def _noise(seed: Tensor, size: Sequence[int]) -> Tensor:
    """Hash pixel index and seed to [0, 1], equally on every device."""
    height, width = size
    value = torch.arange(height * width, device=seed.device).view(height, width) + seed * 7919
    for _ in range(3):  # a multiplicative hash with xorshift, in 31 bits
        value = (value * 0x45D9F3B) & 0x7FFFFFFF
        value = value ^ (value >> 15)
    return (value & 0xFFFF).float() / 0xFFFF


# --- things ------------------------------------------------------------------------------------------------------


def _things(drawn: Drawing, y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the share of the marks' colour and the coverage of each thing, both (scenes, layers, height, width)."""
    side = min(height, width)
    place_x, place_y, cosine, sine, radius, texture, middle = drawn.places[..., None, None].unbind(2)
    dx, dy = x - width / side * place_x, y - height / side * place_y
    own_x, own_y = dx * cosine + dy * sine, dy * cosine - dx * sine
    outside = distance(drawn.shapes.movedim(2, 0)[..., None, None], own_x, own_y)
    outside = torch.where(_written(drawn.words, middle, own_x, own_y), -1.0, outside)
    cover = (0.5 - outside * radius * side).clamp(0, 1)
    return _marked(texture, own_x, own_y), cover


def _written(words: Tensor, middle: Tensor, x: Tensor, y: Tensor) -> Tensor:
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
    return _chosen(texture, [marks[name] for name in TEXTURES]).float()
