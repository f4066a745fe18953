"""Pixels of scenes: all scenes of a call at once, on any device, the same on each of them up to rounding."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mossvl.synthetic.glyphs import COLUMNS, ROWS, dots
from mossvl.synthetic.scene import BACKGROUNDS, COLOURS, DOT, LONGEST, TEXTURES, Background, Scene, Thing
from mossvl.synthetic.shapes import KINDS

STRIPES = 5
"""Stripes, and dots, across a thing."""
SHADE = 0.55
"""How dark stripes and dots are on a thing; black things get light ones."""
SQUARES = 8
"""Squares of a checked background along the shorter side."""


def render(scenes: Sequence[Scene], height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw scenes.

    Args:
        scenes: what is in them; things may differ in number.
        height, width: of each picture, in pixels.

    Returns:
        uint8 (scenes, height, width, 3), sRGB.
    """
    side = min(height, width)
    rows, columns = torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5
    y, x = torch.meshgrid(rows / side, columns / side, indexing="ij")
    extent = width / side, height / side
    picture = _backgrounds([scene.background for scene in scenes], y, x)
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        drawn = [number for number, scene in enumerate(scenes) if layer < len(scene.things)]
        things = [scenes[number].things[layer] for number in drawn]
        colour, cover = _things(things, y, x, extent, 1 / side)
        index = torch.tensor(drawn, device=device)
        below = picture[index]
        picture[index] = below + cover[..., None] * (colour - below)
    return picture.round().clamp(0, 255).to(torch.uint8)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """(n, 1, 1) on the device of `like`."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None]


# --- backgrounds -------------------------------------------------------------------------------------------------


def _backgrounds(given: Sequence[Background], y: Tensor, x: Tensor) -> Tensor:
    """float32 (scenes, height, width, 3)."""
    first, second = (
        torch.tensor([getattr(one, name) for one in given], dtype=torch.float32, device=y.device)[:, None, None]
        for name in ("first", "second")
    )
    turn = _column([2 * math.pi * one.angle for one in given], y)
    along, across = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    mixes = {
        "plain": torch.zeros_like(along),
        "gradient": (along - along.amin((1, 2), keepdim=True))
        / (along.amax((1, 2)) - along.amin((1, 2)))[:, None, None],
        "checked": ((along * SQUARES).floor() + (across * SQUARES).floor()) % 2,
        "noisy": _noise([one.seed for one in given], y),
    }
    chosen = _column([BACKGROUNDS.index(one.pattern) for one in given], y)
    mix = sum(((chosen == number) * mixes[name] for number, name in enumerate(BACKGROUNDS)), torch.zeros_like(along))
    return first + mix[..., None] * (second - first)


def _noise(seeds: Sequence[int], like: Tensor) -> Tensor:
    """Numbers between 0 and 1 for each pixel, the same on every device: a hash of the pixel and the seed."""
    height, width = like.shape
    pixel = torch.arange(height * width, device=like.device).view(height, width)
    value = pixel + torch.tensor([seed % 2**20 for seed in seeds], device=like.device)[:, None, None] * 7919
    for _ in range(3):  # multiplied, and its upper bits mixed into its lower ones, within 31 bits
        value = (value * 0x45D9F3B) & 0x7FFFFFFF
        value = value ^ (value >> 15)
    return (value & 0xFFFF).float() / 0xFFFF


# --- things ------------------------------------------------------------------------------------------------------


def _things(
    things: Sequence[Thing], y: Tensor, x: Tensor, extent: tuple[float, float], pixel: float
) -> tuple[Tensor, Tensor]:
    """One thing each: colours (n, height, width, 3), and how much of each pixel it covers (n, height, width)."""
    radius = _column([thing.radius for thing in things], y)
    turn = _column([2 * math.pi * thing.angle for thing in things], y)
    dx = x - extent[0] * _column([thing.x for thing in things], y)
    dy = y - extent[1] * _column([thing.y for thing in things], y)
    own_x = (dx * turn.cos() + dy * turn.sin()) / radius
    own_y = (dy * turn.cos() - dx * turn.sin()) / radius
    distance = torch.empty_like(own_x)
    for kind in {thing.kind for thing in things}:
        at = torch.tensor([number for number, thing in enumerate(things) if thing.kind == kind], device=y.device)
        if kind == "word":
            distance[at] = _word_distance([thing.word for thing in things if thing.kind == kind], own_x[at], own_y[at])
        else:
            distance[at] = KINDS[kind](own_x[at], own_y[at])
    cover = (0.5 - distance * radius / pixel).clamp(0, 1)
    return _painted(things, own_x, own_y), cover


def _word_distance(words: list[str], x: Tensor, y: Tensor) -> Tensor:
    """-1 on a dot of the letters and 1 beside them."""
    lengths = _column([len(word) * (COLUMNS + 1) - 1 for word in words], x)
    column = (x / DOT + lengths / 2).floor().long()
    row = (y / DOT + ROWS / 2).floor().long()
    inside = (column >= 0) & (column < lengths) & (row >= 0) & (row < ROWS)
    letters = dots(words, LONGEST).to(x.device)
    number = torch.arange(len(words), device=x.device)[:, None, None].expand_as(column)
    on = letters[number, row.clamp(0, ROWS - 1), column.clamp(0, letters.shape[2] - 1)] & inside
    return torch.where(on, -1.0, 1.0)


def _painted(things: Sequence[Thing], x: Tensor, y: Tensor) -> Tensor:
    """(n, height, width, 3): each thing's colour, with its texture."""
    plain = torch.tensor([COLOURS[thing.colour] for thing in things], dtype=torch.float32, device=x.device)
    dark = plain.mean(1, keepdim=True) < 60
    mark = torch.where(dark, plain + 0.45 * (255 - plain), plain * SHADE)
    marked = {
        "plain": torch.zeros_like(x, dtype=torch.bool),
        "striped": torch.remainder((x + 1) * STRIPES / 2, 1) < 0.42,
        "dotted": torch.hypot(*(torch.remainder((axis + 1) * STRIPES / 2, 1) - 0.5 for axis in (x, y))) < 0.3,
    }
    chosen = _column([TEXTURES.index(thing.texture) for thing in things], x)
    marks = torch.zeros_like(x, dtype=torch.bool)
    for number, name in enumerate(TEXTURES):
        marks |= marked[name] & (chosen == number)
    return torch.where(marks[..., None], mark[:, None, None], plain[:, None, None])
