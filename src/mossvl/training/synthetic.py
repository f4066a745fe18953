"""Examples of the procedural world, made as they are needed and drawn on the device that learns from them.

Example number i is the same in every run: it is made of the seed and i. So a run that is resumed sees what an
uninterrupted one sees, and processes need to share nothing.
"""

import functools
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mossvl.data.records import as_example
from mossvl.processing.messages import Message
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.plan import ImagePlan, MediumPlan, VideoPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.drawing import Drawing, drawing
from mossvl.synthetic.film import filmed
from mossvl.synthetic.render import draw
from mossvl.synthetic.scene import Clip, Scene
from mossvl.synthetic.tasks import TASKS
from mossvl.synthetic.wording import Sample
from mossvl.synthetic.world import Split, World
from mossvl.training.batches import Batch, pack
from mossvl.training.examples import Example
from mossvl.training.supervised import supervised_text

SIZES = ((128, 128), (96, 160), (160, 96), (96, 128), (128, 96))
"""Height and width of pictures, in pixels: what mossvl-tiny's processor makes of files of common shapes."""
LAYERS = 8
"""Room for things in each picture, always the same, so that drawing is compiled once."""


@dataclass(frozen=True)
class Pictures:
    """What stands for an example's pixels until they are drawn.

    Attributes:
        scenes: one for each picture or sampled frame, in order.
        filmed: which of them come from a clip.
        size: height and width, in pixels.
    """

    scenes: Sequence[Scene]
    filmed: Sequence[bool]
    size: tuple[int, int]


@dataclass(frozen=True)
class Phase:
    """What is asked from some example on.

    Args:
        start: number of its first example.
        tasks: by name, how often each is asked, as parts of their sum.
    """

    start: int
    tasks: Mapping[str, float]


class SyntheticExamples(Dataset[Example[Pictures]]):
    """`count` examples of one split.

    Args:
        phases: by `start`, which is 0 for the first.
        run: so many examples after each other have pictures of the same size.

    Raises:
        ValueError: a phase names an unknown task.
    """

    def __init__(
        self, processor: MossVLProcessor, split: Split, seed: int, count: int, phases: Sequence[Phase], run: int = 1
    ) -> None:
        unknown = sorted({task for phase in phases for task in phase.tasks} - set(TASKS))
        if unknown or not phases:
            raise ValueError(f"unknown tasks {', '.join(unknown)}; known: {', '.join(TASKS)}")
        self.processor, self.split, self.seed, self.count, self.run = processor, split, seed, count, run
        self.phases = phases

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example[Pictures]:
        height, width = random.Random(f"{self.seed} size {index // self.run}").choice(SIZES)
        phase = self.phases[bisect_right(self.phases, index, key=lambda one: one.start) - 1]
        world = World(self.split, f"{self.seed} {index}", width / height)
        (task,) = world.random.choices(list(phase.tasks), list(phase.tasks.values()))
        return encode_sample(self.processor, TASKS[task](world), height, width)


def messages_of(sample: Sample, file: Callable[[Scene | Clip], str] | None = None) -> list[Message]:
    """A sample as a conversation, its media in their places.

    Args:
        file: gives the path of a medium, which is then in its place.
    """
    turns = [
        {"role": role, "content": text}
        for turn in sample.turns
        for role, text in (("user", turn.question), ("assistant", turn.answer))
    ]
    shown = [(isinstance(medium, Clip), file(medium) if file else medium) for medium in sample.media]
    images = [medium for moving, medium in shown if not moving]
    videos = [medium for moving, medium in shown if moving]
    return as_example({"messages": turns, "images": images, "videos": videos}, Path())


def encode_sample(processor: MossVLProcessor, sample: Sample, height: int, width: int) -> Example[Pictures]:
    """A sample → an example of pictures that are still to be drawn, of the prompt that files of it would give."""
    text, spans = supervised_text(processor, messages_of(sample))
    plans: list[MediumPlan] = []
    scenes: list[Scene] = []
    film: list[bool] = []
    for medium in sample.media:
        if isinstance(medium, Clip):
            times = medium.sampled(sample.video_fps)
            plans.append(VideoPlan(cast(Any, None), height, width, tuple(range(len(times))), times))
            scenes += [medium.at(time) for time in times]
            film += [True] * len(times)
        else:
            plans.append(ImagePlan(cast(Any, None), height, width))
            scenes.append(medium)
            film.append(False)
    return Example.of(processor, processor.lay_out(text, plans), spans, Pictures(scenes, film, (height, width)))


@dataclass(frozen=True)
class Drawn:
    """A batch's pictures, to be drawn on a device.

    Attributes:
        drawing: all of them.
        filmed: (pictures,) bool, which of them come from clips.
        size: height and width, in pixels.
    """

    drawing: Drawing
    filmed: Tensor
    size: tuple[int, int]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Drawn":
        moved = self.drawing.to(device, non_blocking=non_blocking)
        return Drawn(moved, self.filmed.to(device, non_blocking=non_blocking), self.size)

    def pin_memory(self) -> "Drawn":
        return Drawn(self.drawing.pin_memory(), self.filmed.pin_memory(), self.size)

    def patches(self, layout: PatchLayout) -> Tensor:
        """uint8 (patches, 3 · patch_size²), drawn where the tensors are."""
        pictures = _compiled() if self.filmed.is_cuda else _pictures
        return layout.cut(pictures(self.drawing, self.filmed, *self.size).permute(0, 3, 1, 2))


def _pictures(given: Drawing, film: Tensor, height: int, width: int) -> Tensor:
    return filmed(draw(given, height, width), film)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    """On a GPU, the hundreds of operations of a picture as a few kernels."""
    return torch.compile(_pictures, dynamic=True)


@dataclass(frozen=True)
class SyntheticPacker:
    """Makes batches of synthetic examples, for a DataLoader; `patches` then draws their pictures.

    Args:
        image_token_id, merge_size: of the model.
    """

    image_token_id: int
    merge_size: int

    def __call__(self, examples: Sequence[Example[Pictures]]) -> Batch:
        pictures = [example.pixels for example in examples]
        (size,) = {one.size for one in pictures}
        film = torch.tensor([film for one in pictures for film in one.filmed])
        drawn = Drawn(drawing([scene for one in pictures for scene in one.scenes], LAYERS), film, size)
        return {**pack(examples, self.image_token_id, self.merge_size), "pixel_values": drawn}
