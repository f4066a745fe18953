"""Frames shared out among ranks, each of which has the whole vision tower."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mossvl.device.tower import How, Size, Tower
from mossvl.parallel.ranks import Ranks
from mossvl.parallel.share import even_runs


def encode_shares(tower: Tower, ranks: Ranks, pixels: Tensor, sizes: Sequence[Size], how: How) -> Tensor | None:
    """Encode this rank's share of frames, and gather those of all → vision tokens (tokens, hidden); None but on rank 0.

    Args:
        pixels: (patches, features) uint8, of all frames.
        sizes: of all frames.
    """
    merge = tower.model.visual.config.spatial_merge_size**2
    runs = even_runs([height * width for height, width in sizes], ranks.share.size)
    counts = [sum(sizes[one][0] * sizes[one][1] // merge + 1 for one in run) for run in runs]
    separator = tower.model.separator_token
    tokens = separator.new_zeros((max(counts), len(separator)))  # Ranks gather tensors of one shape.
    own = runs[ranks.share.rank]
    if own:
        rows = [sum(height * width for height, width in sizes[:end]) for end in (own.start, own.stop)]
        part = slice(own.start, own.stop)
        tokens[: counts[ranks.share.rank]] = Tower.encode(tower, pixels[slice(*rows)], sizes[part], how)
    parts = ranks.gather(tokens)
    return None if parts is None else torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
