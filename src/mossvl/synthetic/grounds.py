"""Backgrounds of pictures, drawn in batches on any device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mossvl.synthetic.scene import BACKGROUNDS

SQUARES = 8
"""Squares of a checked background along the shorter side."""
OCTAVES = 4
"""Sizes of clouds, each half as large as the one before."""


def background(grounds: Tensor, colours: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Draw backgrounds, float32 (scenes, 3, height, width), sRGB 0 to 255.

    Args:
        grounds: see `drawing.Drawing`.
        colours: float32 (scenes, 3, 3), of which the first two are used.
        y, x: places (height, 1) and (width,), in shorter sides.
    """
    if grounds.device.type == "cpu" and not torch.compiler.is_compiling() and len(grounds):
        # Frames of a clip share their background, and few kinds of background are in a batch.
        apart, scene = torch.cat([grounds, colours.flatten(1)], 1).unique(dim=0, return_inverse=True)
        grounds, colours = apart[:, : grounds.shape[1]], apart[:, grounds.shape[1] :].unflatten(1, (3, 3))
        return _background(grounds, colours, y, x, sorted({int(kind) for kind in grounds[:, 0]}))[scene]
    return _background(grounds, colours, y, x, range(len(BACKGROUNDS)))


def _background(grounds: Tensor, colours: Tensor, y: Tensor, x: Tensor, kinds: Sequence[int]) -> Tensor:
    """As `background`, where no scene has a background of another kind than these (indices of `BACKGROUNDS`)."""
    pattern, seed, cosine, sine = grounds[..., None, None].unbind(1)
    first, second, _ = colours[..., None, None].unbind(1)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    seed, size = seed.long(), along.shape[1:]

    def mixed(share: Tensor) -> Tensor:
        return torch.lerp(first, second, share if share.dim() == 4 else share[:, None])

    def gradient() -> Tensor:
        corners = torch.stack([x[a] * cosine + y[b] * sine for a in (0, -1) for b in (0, -1)])
        least, most = corners.amin(0), corners.amax(0)
        return mixed((along - least) / (most - least))

    def static() -> Tensor:
        return torch.stack([_noise(seed + number, size) for number in range(3)], 1)

    def clouds(fields: int) -> Tensor:
        # All at once: compiling them one by one takes three times as long.
        numbers = torch.arange(fields, device=seed.device)[:, None, None, None]
        return _clouds(seed + 7 * numbers, along, across)

    def photograph() -> Tensor:
        return _photograph(first, second, clouds(3), y, seed) + 24 * (static() - 0.5)

    drawn: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: mixed(torch.zeros_like(along)),
        "gradient": gradient,
        "checked": lambda: mixed(((along * SQUARES).floor() + (across * SQUARES).floor()) % 2),
        "noisy": lambda: mixed(_noise(seed, size)),
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


def _noise(seed: Tensor, size: Sequence[int]) -> Tensor:
    """Hash pixel index and seed to [0, 1], equally on every device."""
    height, width = size
    return _hashed(torch.arange(height * width, device=seed.device).view(height, width) + seed * 7919)


def _hashed(value: Tensor) -> Tensor:
    for _ in range(3):  # a multiplicative hash with xorshift, in 31 bits
        value = (value * 0x45D9F3B) & 0x7FFFFFFF
        value = value ^ (value >> 15)
    return (value & 0xFFFF).float() / 0xFFFF


def _clouds(seed: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return value noise of OCTAVES octaves at places, in [0, 1] with most values around the middle spread out.

    Args:
        seed: int64 (fields, scenes, 1, 1).
        y, x: places (scenes, height, width).

    Returns:
        float32 (fields, scenes, height, width).
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


def _photograph(first: Tensor, second: Tensor, fields: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Draw skies in the first colour, over land in the second, with hills, clouds, light and shadow."""
    clouds, hills, light = (field[:, None] for field in fields)
    horizon, softness = (_hashed(seed + number)[:, None] for number in (11, 13))
    height = y[-1, 0]
    land = ((y / height - 0.25 - 0.5 * horizon - 0.35 * (hills - 0.5)) * (4 + 60 * softness) + 0.5).clamp(0, 1)
    sky = torch.lerp(first, (first + 255) / 2, 0.8 * clouds * (y / height).clamp(0, 1))
    ground = second * (0.55 + 0.9 * light)
    return (torch.lerp(sky, ground, land) + 50 * (clouds - 0.5)).clamp(0, 255)
