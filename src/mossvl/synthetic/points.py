"""Which pixels of pictures are drawn: all, or those of tiles."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Points(NamedTuple):
    """The pixels of a rectangle in each picture; tensors with one picture stand for all pictures.

    Attributes:
        rows: int64 (pictures, rows, 1), from the top of the whole picture.
        columns: int64 (pictures, 1, columns), from its left.
        height, width: int64 (pictures, 1, 1), of the whole picture.
    """

    rows: Tensor
    columns: Tensor
    height: Tensor
    width: Tensor

    @property
    def side(self) -> Tensor:
        """The shorter side of the whole picture, (pictures, 1, 1)."""
        return torch.minimum(self.height, self.width)

    @property
    def y(self) -> Tensor:
        """The middle of each pixel from the top, in shorter sides: float32 (pictures, rows, 1)."""
        return (self.rows + 0.5) / self.side

    @property
    def x(self) -> Tensor:
        """The middle of each pixel from the left, in shorter sides: float32 (pictures, 1, columns)."""
        return (self.columns + 0.5) / self.side


def whole(height: int, width: int, device: torch.device | str) -> Points:
    """All pixels of pictures of one size."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    size = (torch.full((1, 1, 1), side, device=device) for side in (height, width))
    return Points(rows[None, :, None], columns[None, None], *size)


def tiles(runs: Sequence[tuple[int, int, int]], side: int, device: torch.device | str) -> Tensor:
    """Cut pictures into square tiles: picture after picture, each row by row.

    Args:
        runs: (pictures, height, width) of consecutive pictures of one size; height and width are multiples of `side`.

    Returns:
        int64 (tiles, 5): each tile's picture, its first row and column, and the picture's height and width.
    """
    parts, before = [torch.empty(0, 5, dtype=torch.int64, device=device)], 0
    for pictures, height, width in runs:
        down, across = height // side, width // side
        number = torch.arange(pictures * down * across, device=device)
        picture, row, column = before + number // (down * across), number // across % down, number % across
        size = (torch.full_like(number, length) for length in (height, width))
        parts.append(torch.stack([picture, row * side, column * side, *size], 1))
        before += pictures
    return torch.cat(parts)


def of_tiles(numbers: Tensor, side: int) -> Points:
    """The pixels of tiles, with a row above and a row below each tile; at a picture's edge, the edge itself again.

    Args:
        numbers: of tiles of this side, see `tiles`.
    """
    _, top, left, height, width = numbers[..., None].unbind(1)
    rows = torch.arange(-1, side + 1, device=numbers.device) + top
    columns = torch.arange(side, device=numbers.device) + left
    rows = torch.minimum(rows.clamp(min=0), height - 1)
    return Points(rows[..., None], columns[:, None], height[..., None], width[..., None])
