"""The source of a query's prompt and media: plans, pixels and digests.

Files are opened, read and closed in the thread of their `Load`.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mossvl.errors import MediaError
from mossvl.media.fetch import file_version
from mossvl.processing.conversation import query_prompt
from mossvl.processing.messages import check_messages, media_of
from mossvl.processing.pixels import Grid, num_vision_tokens
from mossvl.processing.plan import (
    ImagePlan,
    Medium,
    MediumPlan,
    VideoPlan,
    num_units,
    source_of,
    video_segments,
)
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import PLACEHOLDER
from mossvl.queries.query import Message, Query
from mossvl.queries.results import SeenMedium
from mossvl.sources.digests import digest_of
from mossvl.sources.memory import Budget, MediaMemory, Remembered
from mossvl.sources.reading import Part, Reading
from mossvl.sources.source import Planned

__all__ = ["Load", "digest_of", "seen_medium"]


class Load(Reading):
    """Loads a query's prompt and media in this process.

    Args:
        expected, threads: see `Reading`.
    """

    def __init__(
        self,
        query: Query,
        messages: list[Message],
        processor: MossVLProcessor,
        media_memory: MediaMemory,
        budget: Budget,
        expected: Sequence[bytes | None] = (),
        threads: int | None = None,
    ) -> None:
        super().__init__(processor, media_memory, budget, expected, threads)
        self.query, self.messages = query, messages

    def _load(self, first: int | None) -> None:
        with ExitStack() as stack:
            stack.callback(self._forget)
            self._load_from(stack, first)

    def _load_from(self, stack: ExitStack, first: int | None) -> None:
        messages = check_messages(self.messages)
        text = query_prompt(self.processor, messages, self.query.rendering, self.query.tools)
        media = media_of(messages)
        versions = _versions(*media)  # Before files are opened: a file that changes from now on is not cached.
        key = self._prompt_key(text, *media, versions)
        plans = self.media_memory.plans.get(key) if first is None else None
        opened = plans is None
        if plans is None:
            plans = self.processor.plan_media(text, *media, self.query.media, stack)
            if versions == _versions(*media):
                self.media_memory.plans.put(key, [_remembered(plan) for plan in plans])
        keys = self._medium_keys(plans, media[1], versions)
        if first is None:
            self._expected, seen = self._known(_parts(plans, keys))
            self._report(self._planned(text, plans))
            if seen:
                return
            first = 0
        if not opened:
            plans = self.processor.plan_media(text, *media, self.query.media, stack)
        if sum(plan.num_frames for plan in plans) != len(self._expected):
            raise MediaError("a file changed while it was being used; ask again")
        self._load_parts(_parts(plans, keys, first))

    def _planned(self, text: str, plans: list[MediumPlan]) -> Planned:
        planned = self.processor.lay_out(text, plans)
        grids = [(int(t), int(h), int(w)) for t, h, w in planned.grid_thw.tolist()]
        merge = self.processor.image_processor.layout.merge_size
        seen = [seen_medium(plan, grid, merge) for plan, grid in zip(plans, grids, strict=True)]
        streams = any(isinstance(plan, VideoPlan) for plan in plans)
        more = self.processor.continuation(self.query.continuation)
        tokens = torch.cat((planned.input_ids, more))
        return Planned(text, tokens, grids, seen, list(self._expected), streams, len(more))

    # --- what identifies media -----------------------------------------------------------------------------------

    def _prompt_key(
        self, text: str, images: Sequence[Any], videos: Sequence[Any], versions: Sequence[Hashable | None]
    ) -> Hashable | None:
        """Return a key of all that a prompt's plans depend on; None if a medium is not a file."""
        if not versions or None in versions:
            return None
        processor, segments = self.processor, [video_segments(video)[1:] for video in videos]
        settings = (
            repr(processor.image_processor.settings(self.query.media)),
            repr(processor.video_processor.settings(self.query.media)),
            processor.image_processor.layout,
            processor.limits,
        )
        own = [medium.options if isinstance(medium, Medium) else None for medium in (*images, *videos)]
        order = tuple(PLACEHOLDER.findall(text))  # Plans are in the order of the prompt, versions by kind.
        return "plans", order, tuple(versions), repr(segments), repr(own), settings

    def _medium_keys(
        self, plans: Sequence[MediumPlan], videos: Sequence[Any], versions: Sequence[Hashable | None]
    ) -> list[Hashable | None]:
        """Return, for each plan, a key of all that its pixels depend on; None if the medium is not a file."""
        layout = self.processor.image_processor.layout
        count = len(versions) - len(videos)
        images, clips = iter(versions[:count]), zip(videos, versions[count:], strict=True)
        units = iter([version for video, version in clips for _ in range(num_units(video))])
        keys: list[Hashable | None] = []
        for plan in plans:
            version = next(images) if isinstance(plan, ImagePlan) else next(units)
            indices = plan.indices if isinstance(plan, VideoPlan) else None
            keys.append(
                None
                if version is None
                else ("pixels", version, indices, plan.height, plan.width, layout, self.pixel_scale)
            )
        return keys


def seen_medium(plan: MediumPlan, grid: Grid, merge: int) -> SeenMedium:
    """Describe a medium as the model will see it."""
    kind = "image" if isinstance(plan, ImagePlan) else "video"
    tokens = num_vision_tokens([grid], merge)
    return SeenMedium(kind, plan.source.width, plan.source.height, plan.width, plan.height, tokens, plan.timestamps)


def _versions(images: Sequence[Any], videos: Sequence[Any]) -> list[Hashable | None]:
    """Return versions of files, images first; None for a medium that is not a file."""
    sources = [*map(source_of, images), *(video_segments(video)[0] for video in videos)]
    return [file_version(source) if isinstance(source, str | Path) else None for source in sources]


def _parts(plans: Sequence[MediumPlan], keys: Sequence[Hashable | None], first: int = 0) -> deque[Part]:
    """The frames of media from the frame `first` of all of them on."""
    parts, number = deque[Part](), 0
    for plan, key in zip(plans, keys, strict=True):
        if number + plan.num_frames > first:
            parts.append(Part(plan, key, number, max(0, first - number)))
        number += plan.num_frames
    return parts


def _remembered(plan: MediumPlan) -> MediumPlan:
    """Return a plan without its open file, for the media cache."""
    source: Any = Remembered(plan.source.height, plan.source.width)
    return replace(plan, source=source)
