"""Random clips with given events, each between two sampled frames.

Paths are made around the origin, in units of the picture's shorter side; `_placed` moves them into the picture, once
the room that each needs is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mossvl.synthetic.scene import Background, Clip, Thing, Track
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.world import Pair, World

RATES = (9, 10, 14, 15, 18, 22, 25, 30)
"""Frames per second of files. No multiples of four: no frame time lies halfway between two tenths of a second."""
FILMED = (4, 5, 6, 8, 10)
"""Frames per second of files of live streams, which are seen at whole seconds."""
VIDEO_FPS = (0.5, 1.0, 2.0)
OVERLAP = 0.7
"""Nearest distance of two colliding things, relative to the sum of their radii."""
ROUND = ("circle", "ring")
"""Kinds of full rotational symmetry."""


class Timing:
    """The sampled frames of a clip, and the frames that first show an event.

    Args:
        video_fps: sampled frames per second; random by default.
    """

    def __init__(self, world: World, video_fps: float | None = None) -> None:
        self.world = world
        self.video_fps = video_fps or world.one(VIDEO_FPS)
        self.rate = world.one(RATES)
        least, most = world.frames
        most = max(least, int(most ** world.random.random())) if world.edition.begun else most
        frames = world.count(least, most) - 0.8 * world.random.random()
        self.seconds = int(frames * self.rate / self.video_fps) / self.rate
        self.part = self._part() if world.edition.begun and world.chance(world.edition.begun) else None
        self.times: Sequence[float] = self.clip([]).sampled(self.video_fps)
        self._take_frames()

    def _take_frames(self) -> None:
        world = self.world
        self.last = len(self.times) - 1
        self.free = world.distinct(range(1, self.last + 1), self.last)
        self.upright = world.chance()
        """Whether things of this clip move vertically, or horizontally."""

    def _part(self) -> tuple[float, float] | None:
        """Lengthen the clip, and draw the part of the former length that is seen; its sampled times are times of
        frames. None if the clip's rate does not allow that."""
        step = self.rate / self.video_fps
        if not step.is_integer():
            return None
        begin = self.world.count(1, 40 * self.rate) / self.rate
        end = begin + max(4, int(self.seconds * self.video_fps)) / self.video_fps
        self.seconds = end + self.world.count(0, 2 * self.rate) / self.rate
        return begin, end

    def clip(self, tracks: Sequence[Track], background: Background = Background()) -> Clip:  # noqa: B008
        """Return the clip of these tracks."""
        return Clip(tracks, self.seconds, background, self.rate, self.part)

    def event(self) -> int:
        """Draw a frame other than the first; a frame without an event, while there is any."""
        return self.free.pop() if self.free else self.world.count(1, self.last)

    def before(self, frame: int) -> float:
        """Draw a time between the previous sampled frame and `frame`."""
        begin, end = self.times[frame - 1], self.times[frame]
        return begin + (0.3 + 0.6 * self.world.random.random()) * (end - begin)

    def path(self, points: Sequence[tuple[int, float, float]]) -> list[tuple[float, float, float]]:
        """Turn points (frame, along, across) into a path (time, x, y)."""
        return [(self.times[i], *((across, along) if self.upright else (along, across))) for i, along, across in points]


class Watching(Timing):
    """The frames of a live stream: one at each second (or every 1 / `video_fps` seconds), from 0 on."""

    def __init__(self, world: World, frames: int, video_fps: float = 1.0) -> None:
        super().__init__(world, video_fps)
        self.rate = world.one(FILMED)
        self.seconds = frames / video_fps
        self.part = None
        self.times = tuple(number / video_fps for number in range(frames))
        self._take_frames()


# --- actions -----------------------------------------------------------------------------------------------------


def stays(timing: Timing, thing: Thing) -> list[Track]:
    return [Track(thing)]


def appears(timing: Timing, thing: Thing) -> list[Track]:
    return [Track(thing, since=timing.before(timing.event()))]


def vanishes(timing: Timing, thing: Thing) -> list[Track]:
    return [Track(thing, until=timing.before(timing.event()))]


def visits(timing: Timing, thing: Thing) -> list[Track]:
    """A thing appears, then vanishes."""
    first, last = sorted((timing.event(), timing.event()))
    if first == last:
        return appears(timing, thing)
    return [Track(thing, since=timing.before(first), until=timing.before(last))]


def blinks(timing: Timing, thing: Thing) -> list[Track]:
    """A thing appears one to four times."""
    count = min(timing.world.count(1, 4), len(timing.times) // 2)
    stays_on = 2 * count > timing.last or timing.world.chance()
    frames = sorted(timing.world.distinct(range(1, timing.last + 1), 2 * count - stays_on))
    times = [timing.before(frame) for frame in frames] + [float("inf")] * stays_on
    return [Track(thing, since=on, until=off) for on, off in zip(times[::2], times[1::2], strict=True)]


def moves(timing: Timing, thing: Thing) -> list[Track]:
    """A thing moves nearly parallel to a side of the picture, in at least three frames."""
    world = timing.world
    way = (0.32 + 0.18 * world.random.random()) * (world.height if timing.upright else world.width)
    half, aside = world.one((0.5, -0.5)) * way, world.one((0.0, 0.05, -0.05)) * way
    begin = world.count(0, timing.last - 2)
    end = world.count(begin + 2, timing.last)
    return [Track(thing, path=timing.path([(begin, -half, -aside), (end, half, aside)]))]


def turns(timing: Timing, thing: Thing) -> list[Track]:
    """A thing turns from the first frame to the last, by 15 to 30 degrees a frame."""
    if thing.kind in ROUND:
        return stays(timing, thing)
    step = timing.world.one((1, -1)) * (0.04 + 0.04 * timing.world.random.random())
    angle = timing.world.random.random()
    end = angle + step * timing.last
    return [Track(replace(thing, angle=angle), turns=[(timing.times[0], angle), (timing.times[-1], end)])]


ACTIONS: dict[str, Callable[[Timing, Thing], list[Track]]] = {
    action.__name__: action for action in (stays, appears, vanishes, visits, blinks, moves, turns)
}


def recolours(timing: Timing, thing: Thing, shown: list[Pair]) -> list[Track]:
    """A thing changes its colour, to a pair not in `shown`, which gains the pair."""
    pair = timing.world.alike((thing.colour, thing.kind), shown, position=0)
    shown.append(pair)
    return [Track(thing, colours=[(timing.before(timing.event()), pair[0])])]


def collides(timing: Timing, first: Thing, second: Thing) -> list[Track]:
    """Two things come together, then bounce back or stay."""
    return _meeting(timing, first, second, OVERLAP * (first.radius + second.radius))


def misses(timing: Timing, first: Thing, second: Thing) -> list[Track]:
    """Two things approach each other, and stop or turn back before they touch."""
    return _meeting(timing, first, second, 0.04 + 1.1 * (first.radius + second.radius))


MEETINGS = {"collides": collides, "misses": misses}


def _meeting(timing: Timing, first: Thing, second: Thing, nearest: float) -> list[Track]:
    world = timing.world
    # Stretched things would touch at other distances.
    first, second = (replace(thing, look=replace(thing.look, stretch=1.0)) for thing in (first, second))
    meet = world.count(2, timing.last)
    begin = world.count(max(0, meet - 4), meet - 2)
    back = min(timing.last, 2 * meet - begin)
    way = 0.36 + 0.12 * world.random.random()
    part = world.one((0.5, 0.5, 0.0, 1.0))  # share of the way that the first thing goes
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
    """Return the number of things that actions need."""
    return len(actions) + sum(action in MEETINGS for action in actions)


def film(world: World, actions: Sequence[str], pairs: Sequence[Pair], timing: Timing | None = None) -> Watched:
    """Return a clip of things with actions.

    Args:
        actions: names of the functions above.
        pairs: colour and kind of each thing, in the order of the actions; further things stay, turn or move.
    """
    timing, count, shown = timing or Timing(world), cast(actions), list(pairs)
    size = "" if len(pairs) <= 2 and count == len(actions) else "small"
    things = iter([replace(world.thing(*pair, size, len(pairs) + 1), x=0.0, y=0.0) for pair in pairs])
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
    return Watched(timing.clip(tracks, background), timing.video_fps, world.aspect, timing.times)


def _placed(world: World, groups: Sequence[Sequence[Track]]) -> list[Track]:
    """Place each group of tracks so that no paths of different groups overlap."""
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
