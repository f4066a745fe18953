"""Random clips in which certain things happen, each between two of the frames that are looked at.

What a thing does is made around the origin, in parts of the picture's shorter side, and put to its place at the end,
when it is known how much room all of it needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mossvl.synthetic.scene import Clip, Thing, Track
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.world import Pair, World

RATES = (9, 10, 14, 15, 18, 22, 25, 30)
"""Frames a second of files. No multiples of four: times of frames never lie halfway between two tenths of a second."""
VIDEO_FPS = (0.5, 1.0, 2.0)
FRAMES = 4, 16
"""How many frames of a clip are looked at."""
OVERLAP = 0.7
"""Distance of two things that collide, in sums of their radii."""
ROUND = ("circle", "ring")
"""Kinds that look the same when they turn."""


class Timing:
    """When a clip is looked at, and which frames are the first to show an event.

    Args:
        video_fps: how many frames of a second are looked at; at random if it is not given.
    """

    def __init__(self, world: World, video_fps: float | None = None) -> None:
        self.world = world
        self.video_fps = video_fps or world.one(VIDEO_FPS)
        self.rate = world.one(RATES)
        wanted = world.count(*FRAMES) - 0.8 * world.random.random()
        self.seconds = int(wanted * self.rate / self.video_fps) / self.rate
        self.times = Clip([], self.seconds, rate=self.rate).sampled(self.video_fps)
        self.last = len(self.times) - 1
        self.free = world.distinct(range(1, self.last + 1), self.last)
        self.upright = world.chance()
        """Whether things of this clip move up and down, or to the left and to the right."""

    def event(self) -> int:
        """A frame that is not the first, and has no event yet as long as there is such a one."""
        return self.free.pop() if self.free else self.world.count(1, self.last)

    def before(self, frame: int) -> float:
        """A time between a frame and the one before."""
        begin, end = self.times[frame - 1], self.times[frame]
        return begin + (0.3 + 0.6 * self.world.random.random()) * (end - begin)

    def path(self, points: Sequence[tuple[int, float, float]]) -> list[tuple[float, float, float]]:
        """(frame, along, across) as a thing's path."""
        return [(self.times[i], *((across, along) if self.upright else (along, across))) for i, along, across in points]


# --- what things do ----------------------------------------------------------------------------------------------


def stays(timing: Timing, thing: Thing) -> list[Track]:
    return [Track(thing)]


def appears(timing: Timing, thing: Thing) -> list[Track]:
    return [Track(thing, since=timing.before(timing.event()))]


def vanishes(timing: Timing, thing: Thing) -> list[Track]:
    return [Track(thing, until=timing.before(timing.event()))]


def visits(timing: Timing, thing: Thing) -> list[Track]:
    """Appears and vanishes."""
    first, last = sorted((timing.event(), timing.event()))
    if first == last:
        return appears(timing, thing)
    return [Track(thing, since=timing.before(first), until=timing.before(last))]


def blinks(timing: Timing, thing: Thing) -> list[Track]:
    """Appears one to four times."""
    count = min(timing.world.count(1, 4), len(timing.times) // 2)
    stays_on = 2 * count > timing.last or timing.world.chance()
    frames = sorted(timing.world.distinct(range(1, timing.last + 1), 2 * count - stays_on))
    times = [timing.before(frame) for frame in frames] + [float("inf")] * stays_on
    return [Track(thing, since=on, until=off) for on, off in zip(times[::2], times[1::2], strict=True)]


def moves(timing: Timing, thing: Thing) -> list[Track]:
    """Nearly along one of the picture's sides, in three frames at least."""
    world = timing.world
    way = (0.32 + 0.18 * world.random.random()) * (world.height if timing.upright else world.width)
    half, aside = world.one((0.5, -0.5)) * way, world.one((0.0, 0.05, -0.05)) * way
    begin = world.count(0, timing.last - 2)
    end = world.count(begin + 2, timing.last)
    return [Track(thing, path=timing.path([(begin, -half, -aside), (end, half, aside)]))]


def turns(timing: Timing, thing: Thing) -> list[Track]:
    """From the first frame to the last, by 15 to 30 degrees between two of them."""
    if thing.kind in ROUND:
        return stays(timing, thing)
    step = timing.world.one((1, -1)) * (0.04 + 0.04 * timing.world.random.random())
    angle = timing.world.random.random()
    end = angle + step * timing.last
    return [Track(replace(thing, angle=angle), turns=[(0.0, angle), (timing.times[-1], end)])]


ACTIONS: dict[str, Callable[[Timing, Thing], list[Track]]] = {
    action.__name__: action for action in (stays, appears, vanishes, visits, blinks, moves, turns)
}


def recolours(timing: Timing, thing: Thing, shown: list[Pair]) -> list[Track]:
    """Takes a colour such that the pair is not shown, and becomes so."""
    pair = timing.world.alike((thing.colour, thing.kind), shown, position=0)
    shown.append(pair)
    return [Track(thing, colours=[(timing.before(timing.event()), pair[0])])]


def collides(timing: Timing, first: Thing, second: Thing) -> list[Track]:
    """Two things come together, and bounce back or stay."""
    return _meeting(timing, first, second, OVERLAP * (first.radius + second.radius))


def misses(timing: Timing, first: Thing, second: Thing) -> list[Track]:
    """Two things come towards each other, and stop before they touch."""
    return _meeting(timing, first, second, 0.04 + 1.1 * (first.radius + second.radius))


MEETINGS = {"collides": collides, "misses": misses}


def _meeting(timing: Timing, first: Thing, second: Thing, nearest: float) -> list[Track]:
    world = timing.world
    meet = world.count(2, timing.last)
    begin = world.count(max(0, meet - 4), meet - 2)
    back = min(timing.last, 2 * meet - begin)
    way = 0.36 + 0.12 * world.random.random()
    part = world.one((0.5, 0.5, 0.0, 1.0))  # of the way that the first one goes
    centre = way * (0.5 - part)
    near = -nearest / 2 - centre, nearest / 2 - centre
    far = near[0] - way * part, near[1] + way * (1 - part)
    tracks = []
    bounces, side = world.chance() and back > meet, world.one((1, -1))
    for thing, start, stop in zip((first, second), far, near, strict=True):
        points = [(begin, side * start, 0.0), (meet, side * stop, 0.0)]
        if bounces:
            points.append((back, side * start, 0.0))
        tracks.append(Track(thing, path=timing.path(points)))
    return tracks


# --- clips -------------------------------------------------------------------------------------------------------


def cast(actions: Sequence[str]) -> int:
    """How many things the actions need."""
    return len(actions) + sum(action in MEETINGS for action in actions)


def film(world: World, actions: Sequence[str], pairs: Sequence[Pair], timing: Timing | None = None) -> Watched:
    """A clip in which things do something.

    Args:
        actions: names of the functions above.
        pairs: what the things are, in the order of the actions; those that are left over stay, turn or move.
    """
    timing, count, shown = timing or Timing(world), cast(actions), list(pairs)
    size = "" if len(pairs) <= 2 and count == len(actions) else "small"
    things = iter([replace(world.thing(*pair, size=size), x=0.0, y=0.0) for pair in pairs])
    groups = []
    for action in (*actions, *(world.one(("stays", "turns", "moves")) for _ in pairs[count:])):
        thing = next(things)
        if action == "recolours":
            groups.append(recolours(timing, thing, shown))
        elif action in MEETINGS:
            groups.append(MEETINGS[action](timing, thing, next(things)))
        else:
            groups.append(ACTIONS[action](timing, thing))
    tracks = _placed(world, groups)
    background = world.background([colour for colour, _ in shown])
    clip = Clip(tracks, timing.seconds, background, timing.rate)
    return Watched(clip, timing.video_fps, world.aspect)


def _placed(world: World, groups: Sequence[Sequence[Track]]) -> list[Track]:
    """Each group of tracks around a place of its own, with room for all its ways."""
    extents = []
    for group in groups:
        ways = [(abs(x), abs(y), track.thing.radius) for track in group for _, x, y in track.path or ((0, 0, 0),)]
        extents.append((max(x + radius for x, _, radius in ways), max(y + radius for _, y, radius in ways)))
    placed = []
    for group, (x, y) in zip(groups, world.layout(extents), strict=True):
        for track in group:
            path = [(time, (x + dx) / world.width, (y + dy) / world.height) for time, dx, dy in track.path]
            _, start_x, start_y = path[0] if path else (0.0, x / world.width, y / world.height)
            placed.append(replace(track, thing=replace(track.thing, x=start_x, y=start_y), path=path))
    return placed
