"""From pictures (images, or frames of videos) to patches: resizing, cutting, normalising."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mossvl.errors import OptionError

Grid = tuple[int, int, int]
"""(frames, patch rows, patch columns) of one image or video: a row of `grid_thw`."""


def num_vision_tokens(grids: Iterable[Grid], merge_size: int) -> int:
    """Vision tokens of media: for each frame, one for each block of `merge_size`² patches, and a separator."""
    return sum(frames * (rows * columns // merge_size**2 + 1) for frames, rows, columns in grids)


PATCH_ORDER = (1, 4, 2, 5, 0, 3, 6)
"""The order of a picture's axes, as `PatchLayout.split` gives them, in its patches."""


@dataclass(frozen=True)
class PatchLayout:
    """How a picture is cut: square patches of `patch_size` pixels, in blocks of `merge_size` × `merge_size` patches.

    Raises:
        OptionError: `temporal_patch_size` is not 1.
    """

    patch_size: int = 16
    temporal_patch_size: int = 1
    merge_size: int = 2

    def __post_init__(self) -> None:
        if self.temporal_patch_size != 1:
            raise OptionError(
                "{temporal_patch_size=} is not supported; MOSS-VL has 1",
                given={"temporal_patch_size": self.temporal_patch_size},
            )

    @property
    def factor(self) -> int:
        """Side of a merge block, in pixels; a picture's sides are multiples of it."""
        return self.patch_size * self.merge_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch rows and columns of a picture of this size in pixels."""
        return height // self.patch_size, width // self.patch_size

    def split(self, channels: int, height: int, width: int) -> tuple[int, ...]:
        """The axes of a picture (channels, height, width), split into blocks, patches of a block, and pixels."""
        size, merge = self.patch_size, self.merge_size
        return channels, height // self.factor, merge, size, width // self.factor, merge, size

    def cut(self, pictures: Tensor) -> Tensor:
        """(…, 3, height, width) → (patches, 3 · patch_size²), merge block by merge block; any dtype."""
        split = self.split(*pictures.shape[-3:])
        blocks = pictures.reshape(-1, *split).permute(0, *(1 + axis for axis in PATCH_ORDER))
        return blocks.reshape(-1, split[0] * self.patch_size**2)


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """uint8 (3, H, W) → (3, height, width): bicubic with antialiasing, bit for bit as the reference implementation."""
    if picture.shape[1:] == (height, width):
        return picture
    return F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0]


def normalise(
    patches: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 (patches, 3 · patch_size²) → (x / 255 − mean) / std by channel, computed in float32."""
    by_channel = patches.view(len(patches), len(mean), -1).float().div_(255)
    centre, scale = _scale(tuple(mean), tuple(std), patches.device)
    return by_channel.sub_(centre).div_(scale).flatten(1).to(dtype)


@functools.lru_cache(16)
def _scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """`mean` and `std`, (channels, 1) float32 each; cached, because a copy to a GPU waits for its queued work."""
    return torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
