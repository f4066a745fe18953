"""From pictures to patches: resizing, cutting, normalising."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mossvl.errors import OptionError

Grid = tuple[int, int, int]
"""(frames, patch rows, patch columns) of one image or video: a row of `grid_thw`."""


@dataclass(frozen=True)
class PatchLayout:
    """How a picture is cut: square patches of `patch_size` pixels, in blocks of `merge_size` × `merge_size` patches."""

    patch_size: int = 16
    temporal_patch_size: int = 1
    merge_size: int = 2

    def __post_init__(self) -> None:
        if self.temporal_patch_size != 1:
            raise OptionError(f"temporal_patch_size={self.temporal_patch_size} is not supported; MOSS-VL has 1")

    @property
    def factor(self) -> int:
        """Sides of a picture are multiples of so many pixels."""
        return self.patch_size * self.merge_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch rows and columns of a picture."""
        return height // self.patch_size, width // self.patch_size

    def cut(self, pictures: Tensor) -> Tensor:
        """(…, 3, height, width) → (patches, 3 · patch_size²), merge block by merge block; any dtype."""
        channels, height, width = pictures.shape[-3:]
        size, merge = self.patch_size, self.merge_size
        blocks = pictures.reshape(-1, channels, height // self.factor, merge, size, width // self.factor, merge, size)
        return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, channels * size * size)


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing on uint8 (3, H, W), which gives the reference implementation's numbers."""
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
    """(channels, 1) each; kept, because a copy to a GPU would wait for all that it has to do before."""
    return torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
