"""What a video file does to colours: pictures as they come out of one, without writing it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

_RED, _BLUE = 0.299, 0.114
_GREEN = 1 - _RED - _BLUE
"""ITU-R BT.601: how much of each makes luma."""
_LOST = 1.16
"""FFmpeg's fast way from YCbCr to RGB cuts fractions off more than once; by so much its colours are too dark."""


def filmed(pictures: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Pictures as decoded from a video of 4:2:0 colours in limited range, converted by FFmpeg both ways.

    Colours are blurred and rounded; what is left out is the loss by compression.

    Args:
        pictures: uint8 (n, height, width, 3), sRGB; height and width even.
        chosen: bool (n,), which of them; else all.

    Returns:
        uint8 (n, height, width, 3).
    """
    red, green, blue = pictures.float().unbind(-1)
    luma = _RED * red + _GREEN * green + _BLUE * blue
    y = (luma * (219 / 255)).round() * (255 / 219)
    cb, cr = (_halved(colour - luma) for colour in (blue, red))
    # They are up to (1 - share) · 255 below and above 0, which makes 224 steps.
    cb, cr = (_rounded(colour, 224 / 255 / (2 - 2 * share)) for colour, share in ((cb, _BLUE), (cr, _RED)))
    out = torch.stack([y + cr, y - (_RED * cr + _BLUE * cb) / _GREEN, y + cb], dim=-1)
    out = (out - _LOST).round().clamp(0, 255).to(torch.uint8)
    return out if chosen is None else torch.where(chosen[:, None, None, None], out, pictures)


def _halved(colour: Tensor) -> Tensor:
    """Two columns made one, and two rows, each with a part of the row next to it. (n, height, width) to halves."""
    colour = (colour[..., ::2] + colour[..., 1::2]) / 2
    rows = pad(colour[:, None], (0, 0, 1, 1), mode="replicate")[:, 0]
    return (rows[:, :-3:2] + 3 * rows[:, 1:-2:2] + 3 * rows[:, 2:-1:2] + rows[:, 3::2]) / 8


def _rounded(colour: Tensor, steps: float) -> Tensor:
    """Kept in whole steps, and each value shown in two rows and two columns."""
    kept = (colour * steps).round() / steps
    return kept.repeat_interleave(2, -1).repeat_interleave(2, -2)
