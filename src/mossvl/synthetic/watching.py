"""The content of a clip's sampled frames: all that answers may depend on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import NamedTuple

from mossvl.synthetic.scene import Clip, Thing
from mossvl.synthetic.wording import name
from mossvl.synthetic.world import Pair

FAR = 0.3
"""Least distance of a movement in a direction, relative to the picture's side."""
TOUCHING, APART = 0.85, 1.05
"""Distances relative to the sum of two radii: below the first, things touch; above the second, they do not."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A thing in each sampled frame; None in frames without the thing. Events are numbers of sampled frames."""

    at: Sequence[Thing | None]

    @cached_property
    def whenever(self) -> list[Thing]:
        """The thing in each frame that shows it."""
        return [thing for thing in self.at if thing is not None]

    @property
    def name(self) -> str:
        """Its name in its first frame."""
        return name(self.whenever[0])

    @property
    def pair(self) -> Pair:
        return self.whenever[0].colour, self.whenever[0].kind

    @property
    def late(self) -> bool:
        """Whether the first frame lacks the thing."""
        return self.at[0] is None

    @cached_property
    def appears(self) -> list[int]:
        """Frames with the thing after a frame without."""
        return [i for i in range(1, len(self.at)) if self.at[i] is not None and self.at[i - 1] is None]

    @cached_property
    def vanishes(self) -> list[int]:
        """Frames without the thing after a frame with it."""
        return [i for i in range(1, len(self.at)) if self.at[i] is None and self.at[i - 1] is not None]

    @cached_property
    def recolours(self) -> list[int]:
        """Frames in which the thing has another colour than in the frame before."""
        return [
            i
            for i, (before, after) in enumerate(pairwise(self.at), 1)
            if before is not None and after is not None and before.colour != after.colour
        ]

    @cached_property
    def turns(self) -> bool:
        return any(thing.angle != self.whenever[0].angle for thing in self.whenever)

    @cached_property
    def moves(self) -> bool:
        return any((thing.x, thing.y) != (self.whenever[0].x, self.whenever[0].y) for thing in self.whenever)

    @cached_property
    def direction(self) -> str | None:
        """The direction of a movement, "left", "right", "up" or "down": at least FAR, without turning back, in at least
        three frames; None otherwise."""
        first, last = self.whenever[0], self.whenever[-1]
        dx, dy = last.x - first.x, last.y - first.y
        if max(abs(dx), abs(dy)) < FAR or min(abs(dx), abs(dy)) > max(abs(dx), abs(dy)) / 2:
            return None
        along = [thing.x if abs(dx) > abs(dy) else thing.y for thing in self.whenever]
        back = sorted(along, reverse=along[-1] < along[0])
        if along != back or len(set(along)) < 3:
            return None
        return ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")


class Event(NamedTuple):
    """An event.

    Args:
        frame: number of the first sampled frame that shows the event.
        whom, what: subject and verb in words.
        things: one thing, or two that collide.
    """

    frame: int
    whom: str
    what: str
    things: Sequence[Seen]


class Watched:
    """A clip and its sampled frames.

    Args:
        video_fps: sampled frames per second.
        aspect: width over height of the picture.
        times: of the sampled frames, in seconds; by default those of a file.
    """

    def __init__(self, clip: Clip, video_fps: float, aspect: float, times: Sequence[float] | None = None) -> None:
        self.clip, self.video_fps = clip, video_fps
        self.width, self.height = max(aspect, 1.0), max(1 / aspect, 1.0)
        self.times = tuple(clip.sampled(video_fps) if times is None else times)
        # A thing that comes and goes has several tracks.
        frames: dict[Thing, list[Thing | None]] = {}
        for track in clip.tracks:
            at = [track.at(time) for time in self.times]
            earlier = frames.get(track.thing)
            frames[track.thing] = [a or b for a, b in zip(earlier, at, strict=True)] if earlier else at
        self.things = [Seen(at) for at in frames.values() if any(at)]

    @property
    def shown(self) -> list[Pair]:
        """Every pair of colour and kind that any sampled frame shows."""
        return [pair for seen in self.things for pair in {(thing.colour, thing.kind) for thing in seen.whenever}]

    def at(self, frame: int) -> list[Thing]:
        """Return the things of a sampled frame."""
        return [thing for seen in self.things if (thing := seen.at[frame]) is not None]

    def touch(self, first: Seen, second: Seen) -> int | None:
        """Return the first sampled frame in which two things touch; -1 if none, None if a frame is ambiguous."""
        distances = [
            math.hypot((a.x - b.x) * self.width, (a.y - b.y) * self.height) / (a.radius + b.radius)
            if a and b
            else math.inf
            for a, b in zip(first.at, second.at, strict=True)
        ]
        if any(TOUCHING <= distance <= APART for distance in distances):
            return None
        return next((i for i, distance in enumerate(distances) if distance < TOUCHING), -1)

    @cached_property
    def meetings(self) -> list[tuple[Seen, Seen]]:
        """Pairs of things of which at least one moves; in each pair, the thing that begins further left comes first."""
        things = sorted(self.things, key=lambda seen: seen.whenever[0].x)
        return [pair for pair in combinations(things, 2) if pair[0].moves or pair[1].moves]

    @cached_property
    def events(self) -> list[Event]:
        """All events, ascending in their frames."""
        found = []
        for seen in self.things:
            for what, frames in (
                ("appears", seen.appears),
                ("vanishes", seen.vanishes),
                ("changes its colour", seen.recolours),
            ):
                found += [Event(frame, f"the {seen.name}", what, [seen]) for frame in frames]
        for first, second in self.meetings:
            frame = self.touch(first, second)
            if frame is not None and frame > 0:
                found.append(Event(frame, f"the {first.name} and the {second.name}", "collide", [first, second]))
        return sorted(found, key=lambda event: event.frame)
