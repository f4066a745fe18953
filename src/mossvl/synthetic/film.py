"""The colour loss of a video file, without writing a file."""

import torch
from torch import Tensor

_RED, _BLUE = 0.299, 0.114
_GREEN = 1 - _RED - _BLUE
"""Luma weights of ITU-R BT.601."""
_LOST = 1.16
"""FFmpeg's fast YCbCr to RGB conversion truncates several times, which darkens every channel by this much."""


def filmed(pictures: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Convert pictures to 4:2:0 YCbCr of limited range and back, as FFmpeg does. Compression loss is not modelled.

    Args:
        pictures: uint8 (n, height, width, 3), sRGB; height and width even.
        chosen: bool (n,), the pictures to convert; by default all.

    Returns:
        uint8 (n, height, width, 3).
    """
    return filmed_within(torch.cat([pictures[:, :1], pictures, pictures[:, -1:]], 1), chosen)


def filmed_within(pictures: Tensor, chosen: Tensor | None = None) -> Tensor:
    """As `filmed`, of pictures or parts of them with one more row above and one below: the neighbours, or the edges.

    Args:
        pictures: uint8 (n, height + 2, width, 3), sRGB; height and width even.
        chosen: bool (n,), the pictures to convert; by default all.

    Returns:
        uint8 (n, height, width, 3).
    """
    red, green, blue = pictures.float().unbind(-1)
    luma = _RED * red + _GREEN * green + _BLUE * blue
    y = (luma[:, 1:-1] * (219 / 255)).round() * (255 / 219)
    cb, cr = (_halved(colour - luma) for colour in (blue, red))
    # Chroma is within ±(1 - share) · 255, which limited range maps to 224 steps.
    cb, cr = (_restored(colour, 224 / 255 / (2 - 2 * share)) for colour, share in ((cb, _BLUE), (cr, _RED)))
    out = torch.stack([y + cr, y - (_RED * cr + _BLUE * cb) / _GREEN, y + cb], dim=-1)
    out = (out - _LOST).round().clamp(0, 255).to(torch.uint8)
    return out if chosen is None else torch.where(chosen[:, None, None, None], out, pictures[:, 1:-1])


def _halved(colour: Tensor) -> Tensor:
    """Subsample (n, height + 2, width) by 2 × 2: a box filter over columns, (1, 3, 3, 1) / 8 over rows."""
    rows = (colour[..., ::2] + colour[..., 1::2]) / 2
    return (rows[:, :-3:2] + 3 * rows[:, 1:-2:2] + 3 * rows[:, 2:-1:2] + rows[:, 3::2]) / 8


def _restored(colour: Tensor, steps: float) -> Tensor:
    """Quantise to `steps` steps a unit, then upsample by 2 × 2 with nearest neighbours."""
    quantised = (colour * steps).round() / steps
    return quantised.repeat_interleave(2, -1).repeat_interleave(2, -2)
