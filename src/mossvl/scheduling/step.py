"""What a step consists of: which frames, prompt tokens and answer tokens are computed."""

from dataclasses import dataclass, field
from typing import Generic

from mossvl.scheduling.request import Owner, Request


@dataclass(frozen=True)
class FrameSpan(Generic[Owner]):
    """Frames [start, stop) of a request, to be encoded and read.

    Attributes:
        until: how much of it is then encoded, if it is one frame that is encoded in parts; it is read once that is 1.
    """

    request: Request[Owner]
    start: int
    stop: int
    until: float = 1.0


@dataclass(frozen=True)
class RowSpan(Generic[Owner]):
    """Tokens [start, stop) of a request, to be computed; `draws` if the token after them is then drawn."""

    request: Request[Owner]
    start: int
    stop: int
    draws: bool


@dataclass
class Step(Generic[Owner]):
    """One step.

    Attributes:
        copies: pages to be copied first, in this order: (for whom, from, to).
        frames: frames to be encoded, next.
        prefill: rows of prompts.
        decode: requests that get one row each; its token may still be in flight.
        missing: requests that need pixels which nobody has: (request, first frame).
    """

    copies: list[tuple[Request[Owner], int, int]] = field(default_factory=list)
    frames: list[FrameSpan[Owner]] = field(default_factory=list)
    prefill: list[RowSpan[Owner]] = field(default_factory=list)
    decode: list[Request[Owner]] = field(default_factory=list)
    missing: list[tuple[Request[Owner], int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.copies or self.frames or self.prefill or self.decode)

    @property
    def requests(self) -> list[Request[Owner]]:
        return list(dict.fromkeys([*self.prompted, *self.decode]))

    @property
    def prompted(self) -> list[Request[Owner]]:
        """Requests of whose prompts something is computed."""
        found = [request for request, _, _ in self.copies] + [part.request for part in self.frames]
        return list(dict.fromkeys([*found, *(rows.request for rows in self.prefill)]))

    @property
    def computed(self) -> list[Request[Owner]]:
        """Requests of which text rows are computed."""
        return [*(rows.request for rows in self.prefill), *self.decode]

    def apart(self) -> "dict[Request[Owner], Step[Owner]]":
        """A step for each request, of what is planned for it."""
        steps: dict[Request[Owner], Step[Owner]] = {request: Step() for request in self.requests}
        for copy in self.copies:
            steps[copy[0]].copies.append(copy)
        for part in self.frames:
            steps[part.request].frames.append(part)
        for rows in self.prefill:
            steps[rows.request].prefill.append(rows)
        for request in self.decode:
            steps[request].decode.append(request)
        return steps
