"""Packs a padded batch into rows without padding, with their positions and what they see.

All tensors are on the CPU, and int64 unless stated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mossvl.model.cache import MossVLCache
from mossvl.model.xrope import text_layout
from mossvl.processing.pixels import Grid


def image_tokens(
    input_ids: Tensor | None, cross_attention_mask: Tensor | None, real: Tensor, image_token_id: int
) -> list[Tensor]:
    """For each sample, (rows,) bool: which of its real tokens are image tokens.

    Args:
        input_ids: (batch, text); if None, an image token is a row that sees more frames than the row before.
        cross_attention_mask: (batch, 1, text, frames) bool, True where a frame is hidden from a token.
        real: (batch, text) bool, False for padding.

    Raises:
        ValueError: `input_ids` and `cross_attention_mask` disagree.
    """
    found, seen = None, None
    if input_ids is not None:
        found = [(ids == image_token_id)[rows] for ids, rows in zip(input_ids.cpu(), real, strict=True)]
    if cross_attention_mask is not None:
        frames = (~cross_attention_mask[:, 0].bool()).sum(-1).cpu()
        seen = [count[rows] for count, rows in zip(frames, real, strict=True)]
    if found is not None:
        if seen is not None and any(not torch.equal(f.cumsum(0), s) for f, s in zip(found, seen, strict=True)):
            raise ValueError(
                "cross_attention_mask does not follow from input_ids: a row sees the frames whose image token stands "
                "at or before it. Leave the mask out, or take it from the processor"
            )
        return found
    if seen is not None:
        return [count.diff(prepend=count.new_zeros(1)) > 0 for count in seen]
    return [torch.zeros(int(rows.sum()), dtype=torch.bool) for rows in real]


def group_media(
    grid_thw: Tensor | None, counts: Sequence[int] | Tensor | None, samples: int | None
) -> list[list[Grid]]:
    """Split `grid_thw` (media, 3) into groups of `counts` media, one for each of `samples` (None: any number).

    Without counts, a single sample has all media.

    Raises:
        ValueError: the counts do not add up, or are missing for a batch.
    """
    grids = [] if grid_thw is None else [(int(t), int(h), int(w)) for t, h, w in grid_thw.tolist()]
    if counts is None:
        if grids and samples != 1:
            raise ValueError("a batch needs media_nums_per_sample: how many images and videos each sample has")
        counts = [len(grids)] * (samples or 1)
    counts = [int(count) for count in counts]
    if samples is not None and len(counts) != samples:
        raise ValueError(f"media_nums_per_sample has {len(counts)} entries for {samples} samples")
    if sum(counts) != len(grids):
        raise ValueError(f"media_nums_per_sample {counts} adds up to {sum(counts)}, but grid_thw has {len(grids)} rows")
    rest = iter(grids)
    return [[next(rest) for _ in range(count)] for count in counts]


def images_of(
    image_grid_thw: Tensor, grid_thw: Tensor | None, counts: Sequence[int] | Tensor | None, found: Sequence[Tensor]
) -> tuple[Tensor, Sequence[int] | Tensor]:
    """`grid_thw` and `media_nums_per_sample` of media that are all images: a sample has as many as image tokens.

    Args:
        image_grid_thw: (images, 3), 1 frame each.
        grid_thw: must be None; the same by its other name.
        counts: `media_nums_per_sample`, if given.
        found: for each sample, (rows,) bool: which of its tokens are image tokens.

    Raises:
        ValueError: both names are given, a row is of a video, or the numbers of rows and image tokens differ.
    """
    if grid_thw is not None:
        raise ValueError("give either grid_thw or image_grid_thw, which is its other name where all media are images")
    if (image_grid_thw[:, 0] != 1).any():
        raise ValueError(
            "image_grid_thw has a medium of several frames, but the image tokens of a prompt do not tell which frames "
            "are one video; pass videos by grid_thw and media_nums_per_sample"
        )
    if counts is None:
        counts = [int(rows.sum()) for rows in found]
        if sum(counts) != len(image_grid_thw):
            raise ValueError(
                f"the prompts have {counts} image tokens, but image_grid_thw has {len(image_grid_thw)} rows; every "
                "image needs exactly one image token, and videos need grid_thw and media_nums_per_sample"
            )
    return image_grid_thw, counts


def seen_rows(rows: Tensor, lengths: Sequence[int], groups: Sequence[list[Grid]], what: str) -> Tensor:
    """The rows of the groups that a sample sees; none sees the blank image of a text-only sample.

    Args:
        rows: (rows, …) of all groups.
        lengths: number of rows of each group.
        groups: the same groups, empty where no sample sees them.
        what: what the rows are, for the error.

    Raises:
        ValueError: the number of rows is not that of the media.
    """
    if sum(lengths) != len(rows):
        raise ValueError(f"grid_thw describes {sum(lengths)} {what}, but {len(rows)} were given")
    parts = [part for part, grids in zip(rows.split(list(lengths)), groups, strict=True) if grids]
    return parts[0] if len(parts) == 1 else torch.cat([rows[:0], *parts])


@dataclass(frozen=True)
class PackedBatch:
    """Rows of all samples one after the other, and the vision sequences that they read."""

    lengths: list[int]
    """Rows of each sample."""
    positions: Tensor
    """(3, rows): rotary positions of the text."""
    visible: Tensor
    """(rows,): number of its sample's vision tokens that each row sees."""
    groups: list[list[Grid]]
    """The media of this call, in groups."""
    reads: list[int]
    """For each sample, the index of the group that it reads."""
    vision_positions: Tensor
    """(3, vision rows): rotary positions of this call's vision tokens."""
    vision_lengths: list[int]
    """Vision tokens of each group, separators included."""
    next_positions: list[int]
    """Rotary position of each sample's next token."""
    frames: list[int]
    """Number of frames of each sample, those of earlier calls included."""
    frame_ends: Tensor
    """(all frames,): the end of each frame in its sample's vision sequence."""
    attends: Tensor
    """(4, rows) int32: a row attends to the rows [first, second) and the vision tokens [third, fourth) of this call."""

    @property
    def grids(self) -> list[Grid]:
        """All media of this call."""
        return [grid for group in self.groups for grid in group]

    def pin_memory(self) -> "PackedBatch":
        """The batch in pinned memory; `DataLoader` calls this method."""
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        pinned = {name: one.contiguous().pin_memory() for name, one in values.items() if isinstance(one, Tensor)}
        return type(self)(**{**values, **pinned})

    def remember(self, cache: MossVLCache, columns: int) -> None:
        """Store the positions of each sample in the cache, for the next call; `columns` is the width of this one."""
        cache.columns += columns
        cache.next_positions = self.next_positions
        cache.vision_ends = list(self.frame_ends.split(self.frames))

    @classmethod
    def pack(
        cls,
        is_image: Sequence[Tensor],
        groups: Sequence[list[Grid]],
        reads: Sequence[int],
        merge: int,
        cache: MossVLCache | None,
    ) -> "PackedBatch":
        """Lay out the rows of every sample, after those in the cache.

        Args:
            is_image: for each sample, (rows,) bool: which of its tokens are image tokens.
            groups: groups of media; those whose readers have no image tokens are left out.
            reads: for each sample, the index of the group that it reads.
            merge: side of a merge block, in patches.

        Raises:
            ValueError: groups, frames, image tokens or the cache do not fit together.
        """
        samples = len(is_image)
        if len(reads) != samples or any(not 0 <= group < len(groups) for group in reads):
            raise ValueError(f"vision_index {list(reads)} must name one of {len(groups)} groups of media per sample")
        used = {group for rows, group in zip(is_image, reads, strict=True) if rows.any()}
        groups = [grids if number in used else [] for number, grids in enumerate(groups)]
        frame_sizes = [
            torch.tensor([(h // merge, w // merge) for t, h, w in grids for _ in range(t)], dtype=torch.long).view(
                -1, 2
            )
            for grids in groups
        ]
        starts, earlier = [0] * samples, [torch.zeros(0, dtype=torch.long)] * samples
        if cache is not None and cache.next_positions:
            starts, earlier = cache.next_positions, cache.vision_ends
            if len(starts) != samples:
                raise ValueError(f"the cache holds {len(starts)} samples, but this batch has {samples}")

        layouts = [
            text_layout(rows, frame_sizes[group], start)
            for rows, group, start in zip(is_image, reads, starts, strict=True)
        ]
        visible, vision_ends = [], []
        for layout, ends in zip(layouts, earlier, strict=True):
            ends = torch.cat((ends.new_zeros(1), ends))
            grown = torch.cat((ends, ends[-1] + layout.frame_ends))
            visible.append(grown[len(ends) - 1 + layout.visible_frames])
            vision_ends.append(grown[1:])
        vision = [torch.zeros(3, 0, dtype=torch.long)] * len(groups)
        for layout, group in zip(layouts, reads, strict=True):
            if group in used:
                positions = layout.vision()
                if vision[group].numel() and not torch.equal(vision[group], positions):
                    raise ValueError(f"samples that share group {group} of media must have it at the same positions")
                vision[group] = positions
        lengths, seen = [len(rows) for rows in is_image], torch.cat(visible)
        vision_lengths = [positions.shape[1] for positions in vision]
        return cls(
            lengths=lengths,
            positions=torch.cat([layout.text for layout in layouts]).expand(3, -1),
            visible=seen,
            groups=groups,
            reads=list(reads),
            vision_positions=torch.cat([torch.zeros(3, 0, dtype=torch.long), *vision], dim=1),
            vision_lengths=vision_lengths,
            next_positions=[layout.next_position for layout in layouts],
            frames=[len(ends) for ends in vision_ends],
            frame_ends=torch.cat(vision_ends),
            attends=_intervals(lengths, reads, vision_lengths, seen),
        )


def _intervals(lengths: Sequence[int], reads: Sequence[int], vision_lengths: Sequence[int], visible: Tensor) -> Tensor:
    """`PackedBatch.attends`, without a cache."""
    samples = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    ends = torch.tensor(lengths).cumsum(0)
    vision_ends = torch.tensor(vision_lengths).cumsum(0)
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))[samples]
    vision_starts = torch.cat((ends.new_zeros(1), vision_ends[:-1]))[torch.tensor(reads)][samples]
    rows = torch.arange(len(samples))
    return torch.stack((starts, rows + 1, vision_starts, vision_starts + visible)).int()
