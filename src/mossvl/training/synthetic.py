"""Examples of the procedural world, made on access, their pictures drawn on the device of the model.

Example i depends on the seed and i alone: a resumed run sees the examples of an uninterrupted one, and ranks share no
state. A picture is an image or a frame of a clip.
"""

import functools
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mossvl.data.live import Stream, read_example
from mossvl.data.records import as_example
from mossvl.processing.messages import Message, check_messages
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.plan import ImagePlan, MediumPlan, VideoPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.drawing import Drawing, drawing
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.film import filmed, filmed_within
from mossvl.synthetic.live_records import record_of, tokens_by
from mossvl.synthetic.points import of_tiles, tiles, whole
from mossvl.synthetic.render import draw
from mossvl.synthetic.scene import Clip, Scene
from mossvl.synthetic.streaming import STREAMS, LiveSample
from mossvl.synthetic.tasks import tasks_of
from mossvl.synthetic.wording import Sample
from mossvl.synthetic.world import Split, World
from mossvl.training.batches import Batch, pack
from mossvl.training.examples import Example
from mossvl.training.streams import tokenised
from mossvl.training.supervised import supervised_text

LAYERS = 8
"""Layers of each drawing, a constant so that drawing is compiled once."""
TILES = 4096
"""Merge blocks that a GPU draws at once: 4 million pixels."""


@dataclass(frozen=True)
class Pictures:
    """Substitute for an example's pixels until they are drawn.

    Attributes:
        scenes: the scene of each picture, in order.
        filmed: whether each picture is a frame of a clip.
        size: height and width, in pixels.
    """

    scenes: Sequence[Scene]
    filmed: Sequence[bool]
    size: tuple[int, int]


@dataclass(frozen=True)
class Phase:
    """The tasks of a range of examples.

    Args:
        start: index of the first example.
        tasks: weights of the tasks by name; an example's task is drawn in proportion to them.
    """

    start: int
    tasks: Mapping[str, float]


class SyntheticExamples(Dataset[Example[Pictures]]):
    """`count` examples of one split.

    Args:
        phases: in ascending order of `start`, which is 0 for the first phase.
        run: number of consecutive examples whose pictures have one size.
        edition: of the world.

    Raises:
        ValueError: a phase names an unknown task, or there is no phase.
    """

    def __init__(
        self,
        processor: MossVLProcessor,
        split: Split,
        seed: int,
        count: int,
        phases: Sequence[Phase],
        run: int = 1,
        edition: Edition = FIRST,
    ) -> None:
        self.tasks = tasks_of(edition)
        known = {**self.tasks, **STREAMS}
        unknown = sorted({task for phase in phases for task in phase.tasks} - set(known))
        if unknown or not phases:
            raise ValueError(f"unknown tasks {', '.join(unknown)}; known: {', '.join(known)}")
        self.processor, self.split, self.seed, self.count, self.run = processor, split, seed, count, run
        self.phases, self.edition = phases, edition

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example[Pictures]:
        drawn, sizes = random.Random(f"{self.seed} size {index // self.run}"), self.edition.sizes
        height, width = drawn.choices(sizes, self.edition.often)[0] if self.edition.often else drawn.choice(sizes)
        phase = self.phases[bisect_right(self.phases, index, key=lambda one: one.start) - 1]
        frames = self.edition.frames_of(height, width)
        world = World(self.split, f"{self.seed} {index}", width / height, self.edition, frames)
        (task,) = world.random.choices(list(phase.tasks), list(phase.tasks.values()))
        if task in STREAMS:
            return encode_live(self.processor, STREAMS[task](world), height, width)
        return encode_sample(self.processor, self.tasks[task](world), height, width)


def messages_of(sample: Sample, file: Callable[[Scene | Clip], str] | None = None) -> list[Message]:
    """A sample as a conversation, with its media.

    Args:
        file: returns the path of a medium's file, which then takes the place of the medium.
    """
    turns = [
        {"role": role, "content": text}
        for turn in sample.turns
        for role, text in (("user", turn.question), ("assistant", turn.answer))
    ]
    shown = [(isinstance(medium, Clip), _given(medium, file) if file else medium) for medium in sample.media]
    images = [medium for moving, medium in shown if not moving]
    videos = [medium for moving, medium in shown if moving]
    return as_example({"messages": turns, "images": images, "videos": videos}, Path())


def _given(medium: Scene | Clip, file: Callable[[Scene | Clip], str]) -> Any:
    """Return a medium's file, with the part of a clip that is looked at."""
    path = file(medium)
    if isinstance(medium, Clip) and medium.part:
        return {"video_path": path, "segments": [list(medium.part)]}
    return path


def encode_sample(processor: MossVLProcessor, sample: Sample, height: int, width: int) -> Example[Pictures]:
    """Encode a sample; its tokens are those that files of its media would give. Pictures are drawn later."""
    text, spans = supervised_text(processor, check_messages(messages_of(sample)))
    plans: list[MediumPlan] = []
    scenes: list[Scene] = []
    from_clip: list[bool] = []
    for medium in sample.media:
        if isinstance(medium, Clip):
            times = medium.sampled(sample.video_fps)
            plans.append(VideoPlan(cast(Any, None), height, width, tuple(range(len(times))), times))
            scenes += [medium.at(time) for time in times]
            from_clip += [True] * len(times)
        else:
            plans.append(ImagePlan(cast(Any, None), height, width))
            scenes.append(medium)
            from_clip.append(False)
    return Example.of(processor, processor.lay_out(text, plans), spans, Pictures(scenes, from_clip, (height, width)))


def encode_live(processor: MossVLProcessor, sample: LiveSample, height: int, width: int) -> Example[Pictures]:
    """Encode a live stream; its tokens are those that its live record would give."""
    stream = read_example(record_of(sample, "", tokenise=tokens_by(processor)), Path())
    assert isinstance(stream, Stream)
    ids, labels = tokenised(processor, stream)
    times, layout = sample.times, processor.image_processor.layout
    pictures = Pictures([sample.clip.at(time) for time in times], [True] * len(times), (height, width))
    return Example(ids, labels, [(1, *layout.grid(height, width))] * len(times), pictures, times)


@dataclass(frozen=True)
class DrawnPictures:
    """The pictures of a batch, in order, as tensors from which a device draws them.

    Attributes:
        drawing: the drawing of all pictures.
        filmed: (pictures,) bool: whether each picture is a frame of a clip.
        runs: (pictures, height, width) of consecutive pictures of one size, in pixels.
    """

    drawing: Drawing
    filmed: Tensor
    runs: Sequence[tuple[int, int, int]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "DrawnPictures":
        film = self.filmed.to(device, non_blocking=non_blocking)
        return DrawnPictures(self.drawing.to(device, non_blocking=non_blocking), film, self.runs)

    def pin_memory(self) -> "DrawnPictures":
        return DrawnPictures(self.drawing.pin_memory(), self.filmed.pin_memory(), self.runs)

    def patches(self, layout: PatchLayout) -> Tensor:
        """Draw the pictures on the tensors' device: uint8 (patches, 3 · patch_size²)."""
        if self.filmed.is_cuda:
            return self.in_tiles(layout, TILES, _compiled())
        parts, start = [], 0
        for pictures, height, width in self.runs:
            part = slice(start, start := start + pictures)
            drawn = draw(self.drawing[part], whole(height, width, self.filmed.device))
            parts.append(layout.cut(filmed(drawn, self.filmed[part]).permute(0, 3, 1, 2)))
        return torch.cat(parts)

    def in_tiles(self, layout: PatchLayout, at_once: int, draw_tiles: "TileDrawer") -> Tensor:
        """As `patches`, merge block by merge block, `at_once` of them in each call of `draw_tiles`.

        All calls have the same shapes, whatever the sizes of the pictures, so that drawing is compiled once.
        """
        numbers = tiles(self.runs, layout.factor, self.filmed.device)
        filled = torch.cat([numbers, numbers[:1].expand(-len(numbers) % at_once, -1)])
        parts = []
        for part in filled.split(at_once):
            scenes = part[:, 0]
            parts.append(draw_tiles(self.drawing.taken(scenes), self.filmed[scenes], part, layout))
        patches = torch.cat(parts)
        return patches[: len(numbers) * layout.merge_size**2]


TileDrawer = Callable[[Drawing, Tensor, Tensor, PatchLayout], Tensor]
"""Makes the patches of tiles: of the scenes that they are parts of, whether these are filmed, and their numbers."""


def _tiles(scenes: Drawing, film: Tensor, numbers: Tensor, layout: PatchLayout) -> Tensor:
    pictures = draw(scenes, of_tiles(numbers, layout.factor))
    return layout.cut(filmed_within(pictures, film).permute(0, 3, 1, 2))


@functools.cache
def _compiled(backend: str | Callable[..., Any] = "inductor") -> TileDrawer:
    """Compiled drawing: a picture's hundreds of operations become a few kernels. With shapes as variables, it would
    compile for minutes."""
    return torch.compile(_tiles, dynamic=False, backend=backend)


@dataclass(frozen=True)
class SyntheticPacker:
    """Collator of synthetic examples, for a DataLoader; `pixel_values` is a `DrawnPictures`.

    Examples whose pictures have one size come together, the smallest first, each size in the examples' order.

    Args:
        image_token_id, merge_size: of the model.
    """

    image_token_id: int
    merge_size: int

    def __call__(self, examples: Sequence[Example[Pictures]]) -> Batch:
        ordered = sorted(examples, key=lambda example: example.pixels.size)
        pictures = [example.pixels for example in ordered]
        counts = {
            size: sum(len(one.scenes) for one in same) for size, same in groupby(pictures, key=lambda one: one.size)
        }
        pixels = DrawnPictures(
            drawing([scene for one in pictures for scene in one.scenes], LAYERS),
            torch.tensor([film for one in pictures for film in one.filmed], dtype=torch.bool),
            [(count, *size) for size, count in counts.items() if count],
        )
        return {**pack(ordered, self.image_token_id, self.merge_size), "pixel_values": pixels}
