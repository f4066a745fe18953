"""Prompts whose pictures are in memory or in a file, loaded as those of users' queries."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mossvl.bench.prompts import Shape, random_prompt
from mossvl.checkpoints.default import CHECKPOINT
from mossvl.model.configuration import MossVLConfig
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.plan import MediumPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor
from mossvl.queries.query import Query
from mossvl.sources.files import Load
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Frame, Loaded, Planned


def bench_processor() -> MossVLProcessor:
    """A processor of the published sizes, with the tokenizer of mossvl-tiny."""
    tiny = MossVLProcessor.from_pretrained(CHECKPOINT)
    return MossVLProcessor(MossVLImageProcessor(), tiny.tokenizer, MossVLVideoProcessor(), tiny.chat_template)


class PictureLoad(Load):
    """Loads a query's media, but random tokens of a shape's number in place of its text."""

    def __init__(
        self,
        query: Query,
        processor: MossVLProcessor,
        memory: MediaMemory,
        budget: Budget,
        shape: Shape,
        config: MossVLConfig,
    ) -> None:
        super().__init__(query, query.messages([]), processor, memory, budget)
        self.shape, self.config = shape, config

    def _planned(self, text: str, plans: list[MediumPlan]) -> Planned:
        planned = super()._planned(text, plans)
        grids = [(self.shape.rows, self.shape.columns)] * self.shape.frames
        if [grid[1:] for grid in planned.grids for _ in range(grid[0])] != grids:
            raise ValueError(f"the media have grids {planned.grids}, not those of {self.shape.name}")
        return replace(planned, input_ids=random_prompt(self.shape, self.config))


def noise(count: int, height: int, width: int) -> list[Image.Image]:
    """Pillow images of noise."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def changed(pictures: Sequence[Image.Image], number: int) -> None:
    """Change a pixel of each picture, to one that it has for no other number below 2²⁴."""
    for picture in pictures:
        picture.putpixel((0, 0), (number & 255, number >> 8 & 255, number >> 16 & 255))


def query_of(*media: Any) -> Query:
    """A question about images, lists of images (the frames of a video, one a second) and paths of videos."""
    return Query.from_dict({"messages": [{"role": "user", "content": [*map(_part, media), "What happens?"]}]})


def _part(medium: Any) -> dict[str, Any]:
    if isinstance(medium, str | Path):
        return {"type": "video", "video": str(medium)}
    if isinstance(medium, list):
        return {"type": "video", "video": [(float(second), frame) for second, frame in enumerate(medium)]}
    return {"type": "image", "image": medium}


def load(query: Query, processor: MossVLProcessor) -> int:
    """Load a query's media from the start; return the number of frames."""
    events: list[Any] = []
    source = Load(query, query.messages([]), processor, MediaMemory(0), Budget(1 << 40))
    source.run(lambda event: events.append(event.number if isinstance(event, Frame) else event))
    for event in events:
        if isinstance(event, Loaded) and event.error is not None:
            raise event.error
    return sum(isinstance(event, int) for event in events)
