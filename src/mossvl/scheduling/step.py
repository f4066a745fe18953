"""A step: the frames, prefill rows and decode rows that are computed together."""

import math
from dataclasses import dataclass, field, replace
from typing import Generic

from mossvl.scheduling.costs import NO_WORK, Work
from mossvl.scheduling.request import Owner, Request


@dataclass(frozen=True)
class FrameSpan(Generic[Owner]):
    """Frames [start, stop) of a request, to be encoded and written to pages.

    Attributes:
        until: for one large frame that is encoded in parts, the share that is encoded after the step; its keys and
            values are written when the share is 1.
    """

    request: Request[Owner]
    start: int
    stop: int
    until: float = 1.0


@dataclass(frozen=True)
class RowSpan(Generic[Owner]):
    """Rows [start, stop) of a request, to be computed; with `draws`, the step draws the token after them."""

    request: Request[Owner]
    start: int
    stop: int
    draws: bool

    @property
    def scored(self) -> range:
        """The rows after which a token of the prompt gets a log-probability."""
        first, end = self.request.scores_from, self.request.context.prompts[0].end.row
        return range(0) if first is None else range(max(self.start, first), min(self.stop, end - 1))


@dataclass
class Step(Generic[Owner]):
    """One step.

    Attributes:
        copies: pages to copy first, in this order: (request, source, target).
        frames: frames to encode next.
        prefill: rows of prompts, computed after the frames.
        decode: requests with one row each; the row's token may be in flight.
        missing: requests whose pixels must be loaded (again): (request, first missing frame).
        lost: requests that were preempted and have ended, as they are not computed anew: frames had left, or live ones
            find no room beyond their reservation.
        work: what is computed, by kind; none if that is not known.
        spare: seconds that it leaves of the longest gap between tokens; infinite if nobody decodes or is live.
    """

    copies: list[tuple[Request[Owner], int, int]] = field(default_factory=list)
    frames: list[FrameSpan[Owner]] = field(default_factory=list)
    prefill: list[RowSpan[Owner]] = field(default_factory=list)
    decode: list[Request[Owner]] = field(default_factory=list)
    missing: list[tuple[Request[Owner], int]] = field(default_factory=list)
    lost: list[Request[Owner]] = field(default_factory=list)
    work: Work = NO_WORK
    spare: float = math.inf

    def __bool__(self) -> bool:
        return bool(self.copies or self.frames or self.prefill or self.decode)

    @property
    def requests(self) -> list[Request[Owner]]:
        return list(dict.fromkeys([*self.prompted, *self.decode]))

    @property
    def prompted(self) -> list[Request[Owner]]:
        """Requests with page copies, frames or prefill rows in the step."""
        found = [request for request, _, _ in self.copies] + [part.request for part in self.frames]
        return list(dict.fromkeys([*found, *(rows.request for rows in self.prefill)]))

    @property
    def computed(self) -> list[Request[Owner]]:
        """Requests with text rows in the step."""
        return [*(rows.request for rows in self.prefill), *self.decode]

    def cut(self) -> "tuple[Step[Owner], Step[Owner]]":
        """Cut the step in two that do the same one after the other: its frames, then its rows. One may be empty."""
        frames, rows = Work(patches=self.work.patches), self.work._replace(patches=0.0)
        return (
            Step(self.copies, self.frames, work=frames, spare=self.spare),
            Step(prefill=self.prefill, decode=self.decode, work=rows, spare=self.spare),
        )

    def still_possible(self) -> "Step[Owner]":
        """What is left of the step after others that were carried out since it was planned.

        Left out are rows of requests that have ended or were parked since, or whose frames were not encoded.
        """
        prefill = [rows for rows in self.prefill if rows.request.slot >= 0 and rows.request.has_all_frames]
        decode = [request for request in self.decode if request.slot >= 0 and request.wants_token]
        return replace(self, prefill=prefill, decode=decode)

    def apart(self) -> "dict[Request[Owner], Step[Owner]]":
        """Split the step into one step for each request."""
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
