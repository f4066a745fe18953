"""Plans carried out: from media to tensors, all at once or in chunks of frames."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mossvl.processing.pixels import PatchLayout, normalise
from mossvl.processing.plan import Grid, MediumPlan


class PixelSettings(Protocol):
    """What the image and the video processor both hold."""

    image_mean: list[float]
    image_std: list[float]

    @property
    def layout(self) -> PatchLayout: ...


def grid_of(plan: MediumPlan, layout: PatchLayout) -> Grid:
    """(frames, patch rows, patch columns) of a medium."""
    return plan.num_frames, *layout.grid(plan.height, plan.width)


def chunks(
    plans: Sequence[MediumPlan], settings: PixelSettings, frames: int, cancel: threading.Event | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Media in order, at most `frames` frames at a time.

    Yields:
        uint8 patches (patches, 3 · patch_size²), not yet normalised, and their grid_thw (parts, 3); a video may come in
        several parts.
    """
    pending: list[Tensor] = []
    grids: list[list[int]] = []
    for plan in plans:
        _, rows, columns = grid_of(plan, settings.layout)
        grids.append([0, rows, columns])
        for picture in plan.frames(cancel):
            pending.append(settings.layout.cut(picture))
            grids[-1][0] += 1
            if len(pending) == frames:
                yield torch.cat(pending), torch.tensor([grid for grid in grids if grid[0]])
                pending, grids = [], [[0, rows, columns]]
    if pending:
        yield torch.cat(pending), torch.tensor([grid for grid in grids if grid[0]])


def media_tensors(plans: Sequence[MediumPlan], settings: PixelSettings) -> dict[str, Any]:
    """`pixel_values` (patches, 3 · patch_size²) float32 and `grid_thw` (media, 3) int64 of media in order."""
    grids = torch.tensor([grid_of(plan, settings.layout) for plan in plans], dtype=torch.long).view(-1, 3)
    size = 3 * settings.layout.patch_size**2
    pixels = torch.empty(int(grids.prod(1).sum()), size)
    start = 0
    for part, _ in chunks(plans, settings, frames=1):
        pixels[start : start + len(part)] = normalise(part, settings.image_mean, settings.image_std)
        start += len(part)
    return {"pixel_values": pixels, "grid_thw": grids}
