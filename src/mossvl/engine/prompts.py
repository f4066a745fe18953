"""From token ids and grids to prompts that can be scheduled."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mossvl.errors import ContextLengthError, PromptError
from mossvl.model.configuration import MossVLConfig
from mossvl.model.xrope import text_layout
from mossvl.processing.pixels import Grid
from mossvl.scheduling.allocator import Allocator
from mossvl.scheduling.prompt import START, Place, Prompt


class Prompts:
    """Makes prompts that fit into the model's context and the engine's memory.

    Args:
        allocator: whose memory it is.
        max_vision: most vision tokens of one request.
    """

    def __init__(self, config: MossVLConfig, allocator: Allocator[object], max_vision: int) -> None:
        self.config, self.allocator, self.max_vision = config, allocator, max_vision

    def build(
        self, tokens: Tensor, grids: Sequence[Grid], wanted: int, begin: Place = START, left: int = 0
    ) -> tuple[Prompt, int]:
        """A prompt (see `build_prompt`), and how many of the `wanted` tokens may be drawn after it.

        Args:
            left: vision tokens, the first ones of the request, whose frames have left.

        Raises:
            ContextLengthError: the prompt is too long, for the model or for the engine's memory.
            PromptError: it has tokens that the model does not know.
        """
        self._check_length(begin.row + len(tokens), any(frames > 1 for frames, _, _ in grids))
        largest, known = int(tokens.max()), self.config.text_config.vocab_size
        if largest >= known:
            raise PromptError(
                f"the prompt has the token {largest}, but the model knows {known}; the tokenizer is not this model's"
            )
        merge = self.config.vision_config.spatial_merge_size
        prompt = build_prompt(tokens, grids, self.config.image_token_id, merge, begin)
        return prompt, self.room(prompt.end, wanted, left)

    def room(self, end: Place, wanted: int, left: int = 0) -> int:
        """How many of the `wanted` tokens may be drawn at a place; `left` as in `build`.

        Raises:
            ContextLengthError: none; the context or the memory is full.
        """
        self._check_length(end.row)
        vision = end.vision - left // self.allocator.vision_page_size * self.allocator.vision_page_size
        capacity = self.allocator.capacity(vision)
        if end.row >= capacity or vision > self.max_vision:
            raise ContextLengthError(
                f"the prompt exceeds the available context size: it has {end.row} text and {vision} vision tokens, "
                f"more than the engine's {self.allocator.cache.num_pages} pages of {self.allocator.page_size} text or "
                f"{self.allocator.vision_page_size} vision tokens hold",
                setting="EngineConfig.memory",
                advice="; raise {}, or lower max_frames, video_fps or max_pixels",
            )
        return min(wanted, min(self.config.text_config.max_position_embeddings, capacity) - end.row)

    def _check_length(self, length: int, videos: bool = False) -> None:
        context = self.config.text_config.max_position_embeddings
        if length >= context:
            raise ContextLengthError(
                f"this model's maximum context length is {context} tokens: the prompt has {length} tokens, but the "
                f"context is {context}, answer included; shorten the text"
                + ", or lower the number of frames (max_frames)"
                * videos
            )


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
    merged = np.array(frames, dtype=np.int64).reshape(-1, 2) // merge_size
    layout = text_layout(is_image, torch.from_numpy(merged), begin.position)
    ends = begin.vision + np.concatenate(([0], layout.frame_ends.numpy()))
    return Prompt(
        begin=begin,
        tokens=tokens.tolist(),
        positions=layout.text.numpy().astype(np.int32),
        visible=ends[layout.visible_frames.numpy()].astype(np.int32),
        frame_rows=(begin.row + is_image.numpy().nonzero()[0]).tolist(),
        frame_ends=ends[1:].tolist(),
        frame_grids=frames,
        layout=layout,
    )
