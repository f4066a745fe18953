"""How many tokens a live session has."""

from dataclasses import astuple, dataclass
from typing import Self


@dataclass(frozen=True)
class Usage:
    """Tokens of a session since its beginning, those that have left the window or the context included.

    Attributes:
        vision: vision tokens of its frames.
        text_input: tokens of prompts, of the marks and times of frames, and of the template.
        text_output: tokens that the model has drawn.
        held: vision tokens that the model sees now.
        limit: text tokens of the largest context.
    """

    vision: int = 0
    text_input: int = 0
    text_output: int = 0
    held: int = 0
    limit: int = 0

    def __sub__(self, other: Self) -> Self:
        return type(self)(*(own - its for own, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def text(self) -> int:
        return self.text_input + self.text_output


NO_USAGE = Usage()
