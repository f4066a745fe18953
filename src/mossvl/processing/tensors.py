"""From plans of media to tensors, all at once or in chunks of frames."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mossvl.media.clip import Picture
from mossvl.processing.crew import Work, in_order, threads
from mossvl.processing.patches import patches_of, picture_bytes
from mossvl.processing.pixel_settings import PixelSettings
from mossvl.processing.pixels import Grid, PatchLayout, normalise
from mossvl.processing.plan import MediumPlan


def grid_of(plan: MediumPlan, layout: PatchLayout) -> Grid:
    """(frames, patch rows, patch columns) of a medium."""
    return plan.num_frames, *layout.grid(plan.height, plan.width)


def chunks(
    plans: Sequence[MediumPlan], settings: PixelSettings, frames: int, cancel: threading.Event | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode media in order, at most `frames` frames at a time.

    Yields:
        uint8 patches (patches, 3 · patch_size²), not normalised, and their `grid_thw` (parts, 3) int64; a video may be
        split into several parts.
    """
    layout = settings.layout
    grids = [
        (medium, *layout.grid(plan.height, plan.width))
        for medium, plan in enumerate(plans)
        for _ in range(plan.num_frames)
    ]
    each = max(1, threads() // max(1, len(grids)))

    def patches_now(plan: MediumPlan, picture: Picture) -> Tensor:
        return patches_of(picture(), plan.height, plan.width, layout, each)

    works = (
        Work(partial(patches_now, plan, picture), picture_bytes(plan))
        for plan in plans
        for picture in plan.pictures(cancel)
    )
    pictures = in_order(works, threads())
    for start in range(0, len(grids), frames):
        part = grids[start : start + frames]
        patches = torch.empty(
            sum(rows * columns for _, rows, columns in part), 3 * layout.patch_size**2, dtype=torch.uint8
        )
        filled = 0
        for _, rows, columns in part:
            patches[filled : filled + rows * columns] = next(pictures)
            filled += rows * columns
        media = [(len(list(same)), *grid) for (_, *grid), same in groupby(part)]
        yield patches, torch.tensor(media)


def media_tensors(plans: Sequence[MediumPlan], settings: PixelSettings) -> dict[str, Any]:
    """Decode media: `pixel_values` (patches, 3 · patch_size²) float32 and `grid_thw` (media, 3) int64, in order."""
    grids = torch.tensor([grid_of(plan, settings.layout) for plan in plans], dtype=torch.long).view(-1, 3)
    size = 3 * settings.layout.patch_size**2
    pixels = torch.empty(int(grids.prod(1).sum()), size)
    start = 0
    for part, _ in chunks(plans, settings, frames=1):
        pixels[start : start + len(part)] = normalise(part, settings.image_mean, settings.image_std)
        start += len(part)
    return {"pixel_values": pixels, "grid_thw": grids}
