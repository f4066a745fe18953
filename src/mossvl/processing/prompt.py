"""The prompt: its placeholders, and what stands in their place when its media are written out."""

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
PLACEHOLDER = re.compile(f"({re.escape(IMAGE)}|{re.escape(VIDEO)})")


def video_text(timestamps: Iterable[float]) -> str:
    """What a video becomes in the prompt: the absolute time of each frame, and the frame's token."""
    frames = (f"{TIME_START}{time:.1f} seconds{TIME_END}{IMAGE_TOKEN}" for time in timestamps)
    return f"{VISION_START}{''.join(frames)}{VISION_END}"


@dataclass(frozen=True)
class ExpandedPrompt:
    """A prompt with its media written out."""

    text: str
    starts: list[int]
    """Where, in the original text, the pieces between placeholders start; and where they do in `text`."""
    new_starts: list[int]

    @classmethod
    def expand(cls, text: str, media: Sequence[str]) -> "ExpandedPrompt":
        """Replace each placeholder by the text of its medium; kinds must have been checked."""
        pieces, starts, new_starts = [], [0], [0]
        position = new_position = 0
        replacements = iter(media)
        for piece in PLACEHOLDER.split(text):
            placeholder = piece in (IMAGE, VIDEO)
            written = next(replacements) if placeholder else piece
            position, new_position = position + len(piece), new_position + len(written)
            pieces.append(written)
            if placeholder:
                starts.append(position)
                new_starts.append(new_position)
        return cls("".join(pieces), starts, new_starts)

    def position(self, original: int) -> int:
        """Where a character of the original text is now."""
        piece = bisect_right(self.starts, original) - 1
        return self.new_starts[piece] + original - self.starts[piece]


@dataclass(frozen=True)
class PlannedPrompt:
    """One prompt, ready but for its pixels."""

    text: str
    """The prompt as rendered, with a placeholder for each medium."""
    expanded: ExpandedPrompt
    input_ids: Tensor
    """(tokens,) int64."""
    offsets: list[tuple[int, int]]
    """Each token's characters in the expanded text."""
    plans: list[MediumPlan]
    """Media in prompt order."""
    grid_thw: Tensor
    """(media, 3): frames, patch rows, patch columns."""


def check_placeholders(text: str, images: int, videos: int) -> list[str]:
    """The placeholders of a prompt in order.

    Raises:
        PromptError: their numbers are not those of the media; both are named.
    """
    found = PLACEHOLDER.findall(text)
    for placeholder, what, given in ((IMAGE, "images", images), (VIDEO, "videos or video segments", videos)):
        if found.count(placeholder) != given:
            raise PromptError(
                f"the prompt has {found.count(placeholder)} {placeholder} placeholders, but {given} {what} were given; "
                "each needs exactly one placeholder"
            )
    return found
