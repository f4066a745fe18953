"""XRoPE: one rotary position space of (time, height, width) for text tokens and vision tokens.

Walking a prompt with a counter p: a text token sits at (p, p, p) and advances p by 1. An image token with a merged
grid of gh × gw places its frame at t = p, the vision token in row y and column x at (p, p + y, p + x); with
s = p + max(gh, gw) the frame's separator and the image token itself sit at (s, s, s), and p becomes s + 1.
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mossvl.model.configuration import MossVLTextConfig

Rope = tuple[Tensor, Tensor]
"""(cos, sin), each (rows, head_dim), in the activations' dtype."""


@dataclass(frozen=True)
class TextLayout:
    """Positions of the text tokens and frames of one sample. All tensors are int64 on the CPU."""

    text: Tensor
    """(text,): position of every text token, the same for time, height and width."""
    visible_frames: Tensor
    """(text,): number of frames that each text token sees."""
    frame_sizes: Tensor
    """(frames, 2): merged rows and columns of every frame."""
    origins: Tensor
    """(frames,): position (time, height, width) of each frame's first vision token."""
    separators: Tensor
    """(frames,): position of each frame's separator."""
    frame_ends: Tensor
    """(frames,): end of each frame in the vision sequence, its separator included."""
    next_position: int
    """Position of the next token."""

    def vision(self, first: int = 0, last: int | None = None) -> Tensor:
        """(3, vision) int64: positions of the vision tokens of the frames [first, last), separators included."""
        part = slice(first, last)
        return frame_positions(self.frame_sizes[part], self.origins[part], self.separators[part])


def text_layout(is_image: Tensor, frame_sizes: Tensor, start: int = 0) -> TextLayout:
    """Positions and visibility of one sample's tokens.

    Args:
        is_image: (text,) bool, True where the token is an image token; one per frame.
        frame_sizes: (frames, 2) int64, merged rows and columns of every frame in prompt order.
        start: position of the first token; above 0 if a cache holds earlier tokens.

    Raises:
        ValueError: the number of image tokens is not the number of frames.
    """
    is_image, frame_sizes = is_image.cpu(), frame_sizes.cpu()
    if (count := int(is_image.count_nonzero())) != len(frame_sizes):
        raise ValueError(
            f"the prompt has {count} image tokens, but grid_thw describes {len(frame_sizes)} frames; "
            "every image and every video frame needs exactly one image token"
            + ("" if len(frame_sizes) else ". Pass grid_thw with pixel_values: trainers for images alone drop videos")
        )
    # NumPy: a prompt waits for this, and PyTorch takes several times as long for so few numbers.
    image, sizes = is_image.numpy(), frame_sizes.numpy().astype(np.int64)
    longer = sizes.max(axis=1)
    advance = np.ones(len(image), dtype=np.int64)
    advance[image] += longer
    text = start - 1 + advance.cumsum()
    separators = text[image]
    visible, origins, ends = image.cumsum(), separators - longer, (sizes.prod(axis=1) + 1).cumsum()
    next_position = int(text[-1]) + 1 if len(text) else start
    return TextLayout(
        text=torch.from_numpy(text),
        visible_frames=torch.from_numpy(visible),
        frame_sizes=torch.from_numpy(sizes),
        origins=torch.from_numpy(origins),
        separators=torch.from_numpy(separators),
        frame_ends=torch.from_numpy(ends),
        next_position=next_position,
    )


def frame_positions(frame_sizes: Tensor, origins: Tensor, separators: Tensor) -> Tensor:
    """(3, vision) int64: positions of frames' vision tokens, row by row, and of the separator after each frame.

    Args:
        frame_sizes: (frames, 2) merged rows and columns.
        origins, separators: (frames,), see `TextLayout`.
    """
    if not len(frame_sizes):
        return torch.zeros(3, 0, dtype=torch.long)
    parts, start = [], 0
    for (rows, columns), run in groupby(frame_sizes.tolist()):
        frames = slice(start, start := start + len(list(run)))
        index = torch.arange(rows * columns + 1)
        offsets = torch.stack((torch.zeros_like(index), index // columns, index % columns))
        positions = origins[frames, None] + offsets[:, None]  # (3, frames, tokens)
        positions[..., -1] = separators[frames]
        parts.append(positions.flatten(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def rotary(config: MossVLTextConfig, positions: Tensor, dtype: torch.dtype) -> Rope:
    """cos and sin, (rows, head_dim) each, for positions (3, rows) of (time, height, width).

    Frequency j turns with the height if j % 3 == 1 and j < 3 · section[1], with the width if j % 3 == 2 and
    j < 3 · section[2], else with the time. Angles are float32. Frequencies are computed here every time: kept as a
    buffer they would be cast with the model, or be garbage after loading through the meta device.
    """
    half = config.head_dim // 2
    assert config.rope_parameters is not None
    _, height, width = config.rope_parameters["mrope_section"]
    axis = torch.zeros(half, dtype=torch.long, device=positions.device)
    axis[1 : 3 * height : 3] = 1
    axis[2 : 3 * width : 3] = 2
    theta = config.rope_parameters["rope_theta"]
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device) / config.head_dim
    inverse = 1.0 / theta**exponents
    angles = positions[axis].T.float() * inverse
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate x (rows, heads, head_dim) by its rows' angles: element j with element j + head_dim / 2."""
    cos, sin = (table.unsqueeze(-2) for table in rope)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
