"""Backgrounds of pictures, drawn in batches on any device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mossvl.synthetic.points import Points
from mossvl.synthetic.scene import BACKGROUNDS

SQUARES = 8
"""Squares of a checked background along the shorter side."""
OCTAVES = 4
"""Sizes of clouds, each half as large as the one before."""


def background(grounds: Tensor, colours: Tensor, points: Points) -> Tensor:
    """Draw backgrounds, float32 (scenes, 3, rows, columns), sRGB 0 to 255.

    Args:
        grounds: see `drawing.Drawing`.
        colours: float32 (scenes, 3, 3), of which the first two are used.
        points: the pixels of each scene.
    """
    if grounds.device.type != "cpu" or torch.compiler.is_compiling() or not len(grounds):
        return _background(grounds, colours, points, range(len(BACKGROUNDS)))
    kinds = sorted({int(kind) for kind in grounds[:, 0]})
    if len(points.rows) > 1:
        return _background(grounds, colours, points, kinds)
    # Frames of a clip share their background.
    apart, scene = torch.cat([grounds, colours.flatten(1)], 1).unique(dim=0, return_inverse=True)
    grounds, colours = apart[:, : grounds.shape[1]], apart[:, grounds.shape[1] :].unflatten(1, (3, 3))
    return _background(grounds, colours, points, kinds)[scene]


def _background(grounds: Tensor, colours: Tensor, points: Points, kinds: Sequence[int]) -> Tensor:
    """As `background`, where no scene has a background of another kind than these (indices of `BACKGROUNDS`)."""
    pattern, seed, cosine, sine = grounds[..., None, None].unbind(1)
    first, second, _ = colours[..., None, None].unbind(1)
    y, x = points.y, points.x
    along, across = x * cosine + y * sine, y * cosine - x * sine
    seed, pixel = seed.long(), points.rows * points.width + points.columns
    bottom, right = ((length - 0.5) / points.side for length in (points.height, points.width))

    def mixed(share: Tensor) -> Tensor:
        return torch.lerp(first, second, share if share.dim() == 4 else share[:, None])

    def gradient() -> Tensor:
        start = 0.5 / points.side
        corners = torch.stack([a * cosine + b * sine for a in (start, right) for b in (start, bottom)])
        least, most = corners.amin(0), corners.amax(0)
        return mixed((along - least) / (most - least))

    def static() -> Tensor:
        return torch.stack([_noise(seed + number, pixel) for number in range(3)], 1)

    def clouds(fields: int) -> Tensor:
        # All at once: compiling them one by one takes three times as long.
        numbers = torch.arange(fields, device=seed.device)[:, None, None, None]
        return _clouds(seed + 7 * numbers, along, across)

    def photograph() -> Tensor:
        return _photograph(first, second, clouds(3), (y / bottom)[:, None], seed) + 24 * (static() - 0.5)

    drawn: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: mixed(torch.zeros_like(along)),
        "gradient": gradient,
        "checked": lambda: mixed(((along * SQUARES).floor() + (across * SQUARES).floor()) % 2),
        "noisy": lambda: mixed(_noise(seed, pixel)),
        "clouds": lambda: mixed(clouds(1)[0]),
        "static": lambda: mixed(static()),
        "photograph": photograph,
    }
    picture = drawn[BACKGROUNDS[kinds[0]]]()
    for kind in kinds[1:]:
        picture = torch.where(pattern[:, None] == kind, drawn[BACKGROUNDS[kind]](), picture)
    return picture


def chosen(number: Tensor, choices: Sequence[Tensor]) -> Tensor:
    """Return choices[number], elementwise; `number` broadcasts."""
    chosen = choices[0]
    for index, choice in enumerate(choices[1:], 1):
        chosen = torch.where(number == index, choice, chosen)
    return chosen


def _noise(seed: Tensor, pixel: Tensor) -> Tensor:
    """Hash a pixel's index and a seed to [0, 1], equally on every device."""
    return _hashed(pixel + seed * 7919)


def _hashed(value: Tensor) -> Tensor:
    for _ in range(3):  # a multiplicative hash with xorshift, in 31 bits
        value = (value * 0x45D9F3B) & 0x7FFFFFFF
        value = value ^ (value >> 15)
    return (value & 0xFFFF).float() / 0xFFFF


def _clouds(seed: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return value noise of OCTAVES octaves at places, in [0, 1] with most values around the middle spread out.

    Args:
        seed: int64 (fields, scenes, 1, 1).
        y, x: places (scenes, rows, columns).

    Returns:
        float32 (fields, scenes, rows, columns).
    """
    total, weight = torch.zeros_like(x), 0.0
    for octave in range(OCTAVES):
        scale, share = 2.0 * 2**octave, 0.55**octave
        top, left = (y * scale).floor(), (x * scale).floor()
        down, across = (_eased(axis * scale - start) for axis, start in ((y, top), (x, left)))
        first = left.long() * 8191 + top.long() * 131071 + (seed + octave) * 7919
        a, b, c, d = (_hashed((first + step) & 0x7FFFFFFF) for step in (0, 8191, 131071, 131071 + 8191))
        total = total + share * torch.lerp(torch.lerp(a, b, across), torch.lerp(c, d, across), down)
        weight += share
    return ((total / weight - 0.5) * 2.2 + 0.5).clamp(0, 1)


def _eased(part: Tensor) -> Tensor:
    return part * part * (3 - 2 * part)


def _photograph(first: Tensor, second: Tensor, fields: Tensor, height: Tensor, seed: Tensor) -> Tensor:
    """Draw skies in the first colour, over land in the second, with hills, clouds, light and shadow.

    Args:
        height: (scenes, 1, rows, 1), from 0 at the top to 1 at the bottom.
    """
    clouds, hills, light = (field[:, None] for field in fields)
    horizon, softness = (_hashed(seed + number)[:, None] for number in (11, 13))
    land = ((height - 0.25 - 0.5 * horizon - 0.35 * (hills - 0.5)) * (4 + 60 * softness) + 0.5).clamp(0, 1)
    sky = torch.lerp(first, (first + 255) / 2, 0.8 * clouds * height.clamp(0, 1))
    ground = second * (0.55 + 0.9 * light)
    return (torch.lerp(sky, ground, land) + 50 * (clouds - 0.5)).clamp(0, 255)
