"""The prompt: its placeholders, and their expansion into timestamps and image tokens."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mossvl.errors import PromptError
from mossvl.processing.plan import MediumPlan

IMAGE = "<|image|>"
VIDEO = "<|video|>"
IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TIME_START, TIME_END = "<|time_start|>", "<|time_end|>"
DROPPED = ". A trainer that passes images alone, such as most of TRL's, has dropped the videos: its data may have none"
PLACEHOLDER = re.compile(f"({re.escape(IMAGE)}|{re.escape(VIDEO)})")


def video_text(timestamps: Iterable[float]) -> str:
    """The expansion of a video's placeholder: for each frame, its timestamp (seconds) and an image token."""
    frames = (f"{TIME_START}{time:.1f} seconds{TIME_END}{IMAGE_TOKEN}" for time in timestamps)
    return f"{VISION_START}{''.join(frames)}{VISION_END}"


@dataclass(frozen=True)
class ExpandedPrompt:
    """A prompt with its placeholders expanded."""

    text: str
    starts: list[int]
    """Positions in the original text at which the pieces between placeholders start."""
    new_starts: list[int]
    """Positions of the same pieces in `text`."""

    @classmethod
    def expand(cls, text: str, media: Sequence[str]) -> "ExpandedPrompt":
        """Replace each placeholder by the text of its medium; `check_placeholders` must have passed."""
        pieces, starts, new_starts = [], [0], [0]
        position = new_position = 0
        replacements = iter(media)
        for piece in PLACEHOLDER.split(text):
            placeholder = piece in (IMAGE, VIDEO)
            expansion = next(replacements) if placeholder else piece
            position, new_position = position + len(piece), new_position + len(expansion)
            pieces.append(expansion)
            if placeholder:
                starts.append(position)
                new_starts.append(new_position)
        return cls("".join(pieces), starts, new_starts)

    def position(self, original: int) -> int:
        """Position in `text` of a character of the original text."""
        piece = bisect_right(self.starts, original) - 1
        return self.new_starts[piece] + original - self.starts[piece]


@dataclass(frozen=True)
class PlannedPrompt:
    """A prompt and the plans of its media: all model inputs but the pixels."""

    text: str
    """The prompt as rendered, with a placeholder for each medium."""
    expanded: ExpandedPrompt
    input_ids: Tensor
    """(tokens,) int64."""
    offsets: list[tuple[int, int]]
    """Each token's characters [start, end) in the expanded text."""
    plans: list[MediumPlan]
    """Plans of the media, in the order of their placeholders."""
    grid_thw: Tensor
    """(media, 3) int64: frames, patch rows, patch columns."""


def check_placeholders(text: str, images: int, videos: int) -> list[str]:
    """The placeholders of a prompt in order.

    Raises:
        PromptError: the number of placeholders of a kind is not the number of its media.
    """
    found = PLACEHOLDER.findall(text)
    for placeholder, what, given in ((IMAGE, "images", images), (VIDEO, "videos or video segments", videos)):
        if found.count(placeholder) != given:
            dropped = DROPPED if placeholder == VIDEO and not given else ""
            raise PromptError(
                f"the prompt has {found.count(placeholder)} {placeholder} placeholders, but {given} {what} were given; "
                f"each needs exactly one placeholder{dropped}"
            )
    return found
