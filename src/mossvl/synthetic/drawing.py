"""Scenes as tensors, for `render.draw`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mossvl.synthetic import lettering
from mossvl.synthetic.glyphs import COLUMNS, ROWS, dots
from mossvl.synthetic.palettes import COLOURS, PALETTES
from mossvl.synthetic.scene import BACKGROUNDS, LONGEST, TEXTURES, Scene, Thing
from mossvl.synthetic.shapes import NOTHING, VARIANTS

SHADE = 0.55
"""Brightness of marks (stripes, dots) relative to their thing; black things get light marks."""

_PATTERN = {name: number for number, name in enumerate(BACKGROUNDS)}
_COLOUR = {name: number for number, name in enumerate(COLOURS)}
_PALETTE = {name: number for number, name in enumerate(PALETTES)}
_TEXTURE = {name: number for number, name in enumerate(TEXTURES)}
_ALL = [(kind, variant, shape) for kind, shapes in VARIANTS.items() for variant, shape in enumerate(shapes)]
_SHAPE = {(kind, variant): number for number, (kind, variant, _) in enumerate(_ALL)}
_SHAPES = np.array([shape.numbers() for *_, shape in _ALL] + [NOTHING.numbers()], dtype=np.float32)
_PAINTS = np.array([list(palette.values()) for palette in PALETTES.values()], dtype=np.float32)


@dataclass(frozen=True)
class Drawing:
    """Scenes as tensors, one layer for each thing. Scenes with fewer things than layers have empty layers.

    Attributes:
        grounds: float32 (scenes, 4): the background's pattern, seed, cosine and sine of its angle.
        colours: float32 (scenes, 1 + layers, 3, 3): the background's two colours, then each thing's colour, its marks'
            colour and its border's, sRGB 0 to 255.
        places: float32 (scenes, layers, 11): each thing's x, y, cosine and sine over half its width, cosine and sine
            over half its height, the shorter of these halves, texture, half the columns of its word, edge, and whether
            it is hollow.
        shapes: float32 (scenes, layers, numbers), see `shapes.distance`.
        words: int32 (scenes, layers, ROWS + 2), see `glyphs.dots`; empty for shapes and for words in a font.
        written: int64 (scenes, 3): the layer of the word in a font, its number in `bitmaps`, and its columns.
        bitmaps: uint8 (2 + words in fonts, rows, columns), see `lettering.bitmap`; the first two are empty, since
            `torch.compile` would compile a single one apart. Slices of a drawing share them.
    """

    grounds: Tensor
    colours: Tensor
    places: Tensor
    shapes: Tensor
    words: Tensor
    written: Tensor
    bitmaps: Tensor

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
        *tensors, bitmaps = self.tensors()
        return type(self)(*[*(tensor[scenes] for tensor in tensors), bitmaps])

    def taken(self, scenes: Tensor) -> Self:
        """The drawing of some scenes, int64 (taken,), in this order; each has a bitmap of its own."""
        *tensors, written, bitmaps = self.tensors()
        layer, number, columns = written[scenes].unbind(1)
        own = torch.stack([layer, torch.arange(len(scenes), device=layer.device), columns], 1)
        return type(self)(*[*(tensor[scenes] for tensor in tensors), own, bitmaps[number]])

    @classmethod
    def join(cls, drawings: Sequence[Self]) -> Self:
        """Concatenate the scenes of drawings with the same number of layers."""
        moved, before = [], 0
        for one in drawings:
            moved.append(replace(one, written=one.written + torch.tensor([0, before, 0])))
            before += len(one.bitmaps)
        return cls(*(torch.cat(same) for same in zip(*(drawing.tensors() for drawing in moved), strict=True)))


def drawing(scenes: Sequence[Scene], layers: int | None = None) -> Drawing:
    """Turn scenes into tensors on the CPU.

    Args:
        scenes: may have different numbers of things.
        layers: layers of each scene; by default, the largest number of things.

    Raises:
        ValueError: a scene has more things than `layers`, or several words in fonts.
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
        np.concatenate([grounds[:, [3, 4, 5, 6, 7, 8, 6, 7, 8]].reshape(-1, 1, 3, 3), colours], axis=1),
        *others,
        *_writing(scenes),
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
    """Return colours (scenes, layers, 3, 3), places, shapes and words, see `Drawing`."""
    rows = [
        (number * layers + layer, *_numbers(thing))
        for number, scene in enumerate(scenes)
        for layer, thing in enumerate(scene.things)
    ]
    numbers = np.array(rows, dtype=np.float64).reshape(-1, 20).T
    at, shape, palette, colour = numbers[:4].astype(np.int64)
    texture, x, y, angle, radius, stretch, columns, edge, hollow, own = numbers[4:14]
    room = len(scenes) * layers
    colours = np.zeros((room, 3, 3), dtype=np.float32)
    colours[at, 0] = plain = np.clip(_PAINTS[palette, colour] + numbers[14:17].T, 0, 255)
    colours[at, 1] = np.where(plain.mean(1, keepdims=True) < 60, plain + 0.45 * (255 - plain), plain * SHADE)
    colours[at, 2] = np.where(own[:, None] == 1, plain, numbers[17:20].T)
    cosine, sine = _cosine_sine(angle)
    across, down = radius / np.maximum(stretch, 1), radius * np.minimum(stretch, 1)
    least, half = np.minimum(across, down), columns / 2
    directions = (cosine / across, sine / across, cosine / down, sine / down)
    places = np.ones((room, 11), dtype=np.float32)
    places[at] = np.stack([x, y, *directions, least, texture, half, edge, hollow], axis=1)
    shapes = np.tile(_SHAPES[-1], (room, 1))
    shapes[at] = _SHAPES[shape]
    words = np.zeros((room, ROWS + 2), dtype=np.int32)
    dotted = ["" if thing.look.font else thing.word for scene in scenes for thing in scene.things]
    words[at] = dots(dotted, LONGEST)
    return tuple(array.reshape(len(scenes), layers, *array.shape[1:]) for array in (colours, places, shapes, words))


def _numbers(thing: Thing) -> tuple[float, ...]:
    """Return shape, palette, colour, texture, x, y, angle, radius, stretch, columns of a word, edge, whether hollow,
    whether the border has the thing's own colour, shade, and the border's colour."""
    look = thing.look
    return (
        len(_ALL) if thing.word else _SHAPE[thing.kind, look.variant],
        _PALETTE[look.palette],
        _COLOUR[thing.colour],
        _TEXTURE[thing.texture],
        thing.x,
        thing.y,
        thing.angle,
        thing.radius,
        look.stretch,
        len(thing.word) * (COLUMNS + 1) - 1,
        look.edge,
        look.hollow,
        look.border is None,
        *thing.shade,
        *(look.border or (0, 0, 0)),
    )


def _writing(scenes: Sequence[Scene]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return `written` and `bitmaps`, see `Drawing`."""
    written = np.zeros((len(scenes), 3), dtype=np.int64)
    bitmaps = [np.zeros((lettering.ROWS, lettering.COLUMNS), dtype=np.uint8)] * 2
    for number, scene in enumerate(scenes):
        layers = [layer for layer, thing in enumerate(scene.things) if thing.look.font]
        if len(layers) > 1:
            raise ValueError(f"a scene of {len(layers)} words in fonts, and room for one")
        for layer in layers:
            word, font = scene.things[layer].word, scene.things[layer].look.font
            written[number] = layer, len(bitmaps), lettering.columns(word, font)
            bitmaps.append(lettering.bitmap(word, font))
    return written, np.stack(bitmaps)


def _cosine_sine(angle: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return cosine and sine of an angle in turns."""
    return np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
