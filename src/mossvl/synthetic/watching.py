"""What the frames of a clip that are looked at show: all that questions about it may depend on."""

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
"""Least way of a thing that moves in a direction, in parts of the picture."""
TOUCHING, APART = 0.85, 1.05
"""Distance of two things in sums of their radii: below the one they touch, above the other they do not."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A thing in each frame that is looked at; None where it is not there."""

    at: Sequence[Thing | None]

    @cached_property
    def whenever(self) -> list[Thing]:
        return [thing for thing in self.at if thing is not None]

    @property
    def name(self) -> str:
        """As it first was."""
        return name(self.whenever[0])

    @property
    def pair(self) -> Pair:
        return self.whenever[0].colour, self.whenever[0].kind

    @property
    def late(self) -> bool:
        """Not there from the beginning."""
        return self.at[0] is None

    @cached_property
    def appears(self) -> list[int]:
        """The frames that show it and whose predecessors do not; likewise below."""
        return [i for i in range(1, len(self.at)) if self.at[i] is not None and self.at[i - 1] is None]

    @cached_property
    def vanishes(self) -> list[int]:
        return [i for i in range(1, len(self.at)) if self.at[i] is None and self.at[i - 1] is not None]

    @cached_property
    def recolours(self) -> list[int]:
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
        """Left, right, up or down, if it goes that way without turning back, far enough, and in three frames at least;
        None otherwise."""
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
    """Something that happens.

    Args:
        frame: the first one that shows it.
        whom, what: in words: the thing, or things, and what happens to them.
        things: one, or two that collide.
    """

    frame: int
    whom: str
    what: str
    things: Sequence[Seen]


class Watched:
    """A clip with a number of frames of each second that are looked at.

    Args:
        aspect: width over height of the picture.
    """

    def __init__(self, clip: Clip, video_fps: float, aspect: float) -> None:
        self.clip, self.video_fps = clip, video_fps
        self.width, self.height = max(aspect, 1.0), max(1 / aspect, 1.0)
        self.times = clip.sampled(video_fps)
        # One thing may have several tracks, where it comes and goes.
        frames: dict[Thing, list[Thing | None]] = {}
        for track in clip.tracks:
            at = [track.at(time) for time in self.times]
            earlier = frames.get(track.thing)
            frames[track.thing] = [a or b for a, b in zip(earlier, at, strict=True)] if earlier else at
        self.things = [Seen(at) for at in frames.values() if any(at)]

    @property
    def shown(self) -> list[Pair]:
        return [pair for seen in self.things for pair in {(thing.colour, thing.kind) for thing in seen.whenever}]

    def at(self, frame: int) -> list[Thing]:
        return [thing for seen in self.things if (thing := seen.at[frame]) is not None]

    def touch(self, first: Seen, second: Seen) -> int | None:
        """The first frame in which two things touch; -1 if none does, None if that cannot be told."""
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
        """Pairs of things that may meet, because one of them moves; the one that is first seen further left first."""
        things = sorted(self.things, key=lambda seen: seen.whenever[0].x)
        return [pair for pair in combinations(things, 2) if pair[0].moves or pair[1].moves]

    @cached_property
    def events(self) -> list[Event]:
        """In their order."""
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
