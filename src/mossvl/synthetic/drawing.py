"""Scenes as tensors, for `render.draw`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mossvl.synthetic.glyphs import COLUMNS, ROWS, dots
from mossvl.synthetic.scene import BACKGROUNDS, COLOURS, LONGEST, SIZES, TEXTURES, Scene
from mossvl.synthetic.shapes import KINDS, NOTHING

SHADE = 0.55
"""Brightness of marks (stripes, dots) relative to their thing; black things get light marks."""

_PATTERN = {name: number for number, name in enumerate(BACKGROUNDS)}
_COLOUR = {name: number for number, name in enumerate(COLOURS)}
_TEXTURE = {name: number for number, name in enumerate(TEXTURES)}
_KIND = {name: number for number, name in enumerate((*KINDS, "word"))}
_SHAPES = np.array([shape.numbers() for shape in (*KINDS.values(), NOTHING)], dtype=np.float32)
_PLAIN = np.array(list(COLOURS.values()), dtype=np.float32)


@dataclass(frozen=True)
class Drawing:
    """Scenes as tensors, one layer for each thing. Scenes with fewer things than layers have empty layers.

    Attributes:
        grounds: float32 (scenes, 4): the background's pattern, seed, cosine and sine of its angle.
        colours: float32 (scenes, 1 + layers, 2, 3): the background's two colours, then each thing's colour and its
            marks' colour, sRGB 0 to 255.
        places: float32 (scenes, layers, 7): each thing's x, y, cosine / radius, sine / radius, radius, texture, and
            half the columns of its word.
        shapes: float32 (scenes, layers, numbers), see `shapes.distance`.
        words: int32 (scenes, layers, ROWS + 2), see `glyphs.dots`; empty for shapes.
    """

    grounds: Tensor
    colours: Tensor
    places: Tensor
    shapes: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.grounds)

    @property
    def layers(self) -> int:
        return self.places.shape[1]

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return type(self)(*(tensor.to(device, non_blocking=non_blocking) for tensor in self.tensors()))

    def pin_memory(self) -> Self:
        """Pin memory; called by `torch.utils.data.DataLoader`."""
        return type(self)(*(tensor.pin_memory() for tensor in self.tensors()))

    def __getitem__(self, scenes: slice) -> Self:
        return type(self)(*(tensor[scenes] for tensor in self.tensors()))

    @classmethod
    def join(cls, drawings: Sequence[Self]) -> Self:
        """Concatenate the scenes of drawings with the same number of layers."""
        return cls(*(torch.cat(same) for same in zip(*(drawing.tensors() for drawing in drawings), strict=True)))


def drawing(scenes: Sequence[Scene], layers: int | None = None) -> Drawing:
    """Turn scenes into tensors on the CPU.

    Args:
        scenes: may have different numbers of things.
        layers: layers of each scene; by default, the largest number of things.

    Raises:
        ValueError: a scene has more things than `layers`.
    """
    most = max((len(scene.things) for scene in scenes), default=0)
    layers = most if layers is None else layers
    if most > layers:
        raise ValueError(f"a scene of {most} things, and room for {layers} in each")
    grounds = _grounds(scenes)
    pattern, seed, angle = grounds[:, :3].T
    colours, *others = _things(scenes, layers)
    arrays = (
        np.stack([pattern, seed, *_cosine_sine(angle)], axis=1),
        np.concatenate([grounds[:, 3:].reshape(-1, 1, 2, 3), colours], axis=1),
        *others,
    )
    return Drawing(*map(torch.from_numpy, arrays))


def _grounds(scenes: Sequence[Scene]) -> NDArray[np.float32]:
    """Return (scenes, 9): pattern, seed, angle, and two colours."""
    rows = [
        (_PATTERN[ground.pattern], ground.seed % 2**20, ground.angle, *ground.first, *ground.second)
        for ground in (scene.background for scene in scenes)
    ]
    return np.array(rows, dtype=np.float32).reshape(-1, 9)


def _things(scenes: Sequence[Scene], layers: int) -> tuple[NDArray[Any], ...]:
    """Return colours (scenes, layers, 2, 3), places, shapes and words, see `Drawing`."""
    rows = [
        (
            number * layers + layer,
            _KIND[thing.kind],
            _COLOUR[thing.colour],
            _TEXTURE[thing.texture],
            thing.x,
            thing.y,
            thing.angle,
            SIZES[thing.size],
            len(thing.word) * (COLUMNS + 1) - 1,
            *thing.shade,
        )
        for number, scene in enumerate(scenes)
        for layer, thing in enumerate(scene.things)
    ]
    numbers = np.array(rows, dtype=np.float64).reshape(-1, 12).T
    at, kind, colour = numbers[:3].astype(np.int64)
    texture, x, y, angle, radius, columns = numbers[3:9]
    room = len(scenes) * layers
    colours = np.zeros((room, 2, 3), dtype=np.float32)
    colours[at, 0] = plain = np.clip(_PLAIN[colour] + numbers[9:].T, 0, 255)
    colours[at, 1] = np.where(plain.mean(1, keepdims=True) < 60, plain + 0.45 * (255 - plain), plain * SHADE)
    cosine, sine = _cosine_sine(angle)
    places = np.ones((room, 7), dtype=np.float32)
    places[at] = np.stack([x, y, cosine / radius, sine / radius, radius, texture, columns / 2], axis=1)
    shapes = np.tile(_SHAPES[-1], (room, 1))
    shapes[at] = _SHAPES[kind]
    words = np.zeros((room, ROWS + 2), dtype=np.int32)
    words[at] = dots([thing.word for scene in scenes for thing in scene.things], LONGEST)
    return tuple(array.reshape(len(scenes), layers, *array.shape[1:]) for array in (colours, places, shapes, words))


def _cosine_sine(angle: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return cosine and sine of an angle in turns."""
    return np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
