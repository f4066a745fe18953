"""From token ids and grids to prompts that can be scheduled."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mossvl.model.xrope import layout
from mossvl.processing.pixels import Grid
from mossvl.scheduling.prompt import START, Place, Prompt


def build_prompt(
    tokens: Tensor, grids: Sequence[Grid], image_token_id: int, merge_size: int, begin: Place = START
) -> Prompt:
    """From token ids (tokens,) and (frames, patch rows, patch columns) of each medium.

    Args:
        begin: the place in its request's context where it begins.

    Raises:
        ValueError: image tokens and frames do not match.
    """
    frames = [(rows, columns) for number, rows, columns in grids for _ in range(number)]
    is_image = tokens == image_token_id
    merged = torch.tensor(frames, dtype=torch.long).view(-1, 2) // merge_size
    plan = layout(is_image, merged, begin.position)
    ends = begin.vision + torch.cat((plan.frame_ends.new_zeros(1), plan.frame_ends))
    return Prompt(
        begin=begin,
        tokens=tokens.tolist(),
        positions=plan.text.numpy().astype(np.int32),
        visible=ends[plan.visible_frames].numpy().astype(np.int32),
        frame_rows=(begin.row + is_image.nonzero().flatten()).tolist(),
        frame_ends=ends[1:].tolist(),
        frame_grids=frames,
        layout=plan,
    )
