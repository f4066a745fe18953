"""Several prompts as one batch: media assigned to prompts, rows padded to one length."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mossvl.errors import OptionError, PromptError
from mossvl.media.video import is_frame_list
from mossvl.processing.decoded import is_decoded
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.plan import num_units
from mossvl.processing.prompt import IMAGE, VIDEO, PlannedPrompt

BLANK_SIDE = 128
"""Side of a blank image, in pixels."""


def by_prompt(given: Any, texts: list[str], what: str) -> list[list[Any]]:
    """Media of each prompt, from one list for each prompt or one list for all prompts.

    Args:
        what: "images" or "videos".

    Raises:
        PromptError: the number of lists is not the number of prompts.
    """
    if given is None:
        return [[] for _ in texts]
    items = list(given) if isinstance(given, list | tuple) and not is_frame_list(given) else [given]
    if items and all(item is None or _is_nested(item, what) for item in items):
        if len(items) != len(texts):
            raise PromptError(f"{what} has {len(items)} lists for {len(texts)} prompts; give each prompt its own")
        return [list(item or []) for item in items]
    placeholder = IMAGE if what == "images" else VIDEO
    wanted = [one.count(placeholder) for one in texts]
    by_text: list[list[Any]] = []
    rest = iter(items)
    for count in wanted:
        own: list[Any] = []
        while sum(num_units(item) if what == "videos" else 1 for item in own) < count:
            item = next(rest, None)
            if item is None:
                break
            own.append(item)
        by_text.append(own)
    by_text[-1] += list(rest)  # The check of placeholders refuses media that are left over.
    return by_text


def _is_nested(item: Any, what: str) -> bool:
    """Whether an item is a prompt's list of media."""
    frames = what == "videos" and (is_frame_list(item) or is_decoded(item))
    return isinstance(item, list | tuple) and not frames


def truncated(planned: PlannedPrompt, max_length: int | None, side: str, image_token_id: int) -> PlannedPrompt:
    """Truncate a prompt to `max_length` tokens, on the side "left" or "right".

    Raises:
        PromptError: an image token would be cut off.
    """
    tokens = len(planned.input_ids)
    if max_length is None or tokens <= max_length:
        return planned
    kept = slice(tokens - max_length, None) if side == "left" else slice(0, max_length)
    if (planned.input_ids[kept] == image_token_id).sum() < (planned.input_ids == image_token_id).sum():
        raise PromptError(
            f"the prompt has {tokens} tokens, more than max_length={max_length}, and truncation would lose images or "
            "frames; raise max_length (trainers have one, too), or shorten the prompt"
        )
    return replace(planned, input_ids=planned.input_ids[kept], offsets=planned.offsets[kept])


def padded(
    planned: Sequence[PlannedPrompt], image_token_id: int, pad_token_id: int, padding: bool | str, side: str
) -> dict[str, Tensor]:
    """Pad prompts to one batch.

    Returns:
        `input_ids` and `attention_mask` (batch, text) int64, `cross_attention_mask` (batch, 1, text, frames) bool, True
        where hidden.

    Raises:
        OptionError: `padding` or `side` is unknown; or the prompts have different lengths, but `padding` is off.
    """
    if padding not in (True, False, "longest", "do_not_pad") or side not in ("left", "right"):
        raise OptionError(
            "{padding=}, {padding_side=} is not supported; pad to the longest prompt with "
            "padding=True, on the side 'left' or 'right'",
            given={"padding": padding, "padding_side": side},
        )
    if len({len(one.input_ids) for one in planned}) > 1 and padding in (False, "do_not_pad"):
        raise OptionError("prompts of different lengths need padding=True to become one batch")
    lengths = [len(one.input_ids) for one in planned]
    frames = max((int(one.grid_thw[:, 0].sum()) for one in planned), default=0)
    input_ids = torch.full((len(planned), max(lengths)), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    hidden = torch.ones(len(planned), 1, max(lengths), frames, dtype=torch.bool)
    for row, (one, length) in enumerate(zip(planned, lengths, strict=True)):
        columns = slice(max(lengths) - length, None) if side == "left" else slice(0, length)
        input_ids[row, columns] = one.input_ids
        attention_mask[row, columns] = 1
        seen = (one.input_ids == image_token_id).cumsum(0)
        hidden[row, 0, columns] = torch.arange(frames) >= seen[:, None]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "cross_attention_mask": hidden}


def with_blanks(
    media: dict[str, Tensor], planned: Sequence[PlannedPrompt], layout: PatchLayout
) -> tuple[dict[str, Tensor], list[int]]:
    """Give each prompt without media a blank image, whose normalised pixels are all zero.

    Returns:
        `pixel_values` and `grid_thw`, and the number of media of each prompt.
    """
    blank_grid = torch.tensor([[1, *layout.grid(BLANK_SIDE, BLANK_SIDE)]])
    blank = torch.zeros(int(blank_grid.prod()), 3 * layout.patch_size**2)
    patches = [int(one.grid_thw.prod(1).sum()) for one in planned]
    parts = iter(media["pixel_values"].split(patches) if media else [])
    pixels, grids = [], []
    for one, part in ((one, next(parts, None)) for one in planned):
        pixels.append(blank if part is None or not one.plans else part)
        grids.append(one.grid_thw if one.plans else blank_grid)
    tensors_of_media = {"pixel_values": torch.cat(pixels), "grid_thw": torch.cat(grids)}
    return tensors_of_media, [max(1, len(one.plans)) for one in planned]
