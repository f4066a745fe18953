"""Questions about one clip, with their answers: one function for each task.

Answers depend on the sampled frames alone; the time of an event is that of the first sampled frame with the event.
A function returns None if the clip has no clear answer to its question.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from mossvl.synthetic.events import Timing, cast, film
from mossvl.synthetic.pictures import NUMBERS
from mossvl.synthetic.watching import Event, Seen, Watched
from mossvl.synthetic.wording import (
    Exchange,
    Sample,
    Task,
    asked,
    exchange,
    from_left,
    listed,
    name,
    seconds,
    short_name,
    with_article,
)
from mossvl.synthetic.world import World

Question = Callable[[World, Watched], Exchange | None]
BARE = {"appears": "appear", "vanishes": "vanish", "changes its colour": "change its colour"}
"""Third person → bare infinitive."""
NEVER = 0.1
"""Probability that `when` asks about an event that never happens."""
WAYS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}


def subject(world: World, clip: Watched, fits: Callable[[Seen], object] = bool) -> Seen | None:
    """Return a random thing of the world's split for which `fits` holds; None if there is none."""
    fitting = [seen for seen in clip.things if world.owns(*seen.pair) and fits(seen)]
    return world.one(fitting) if fitting else None


def owned(world: World, event: Event) -> bool:
    """Whether all things of an event are of the world's split."""
    return all(world.owns(*seen.pair) for seen in event.things)


def pair_of(world: World, clip: Watched, fits: Callable[[Seen], object]) -> list[Seen]:
    """Return two things of the world's split for which `fits` holds, in random order; [] if there are fewer."""
    fitting = [seen for seen in clip.things if world.owns(*seen.pair) and fits(seen)]
    return world.distinct(fitting, 2) if len(fitting) > 1 else []


def called(world: World, seen: Seen, clip: Watched) -> str:
    """Return the name by which a question calls a thing of a clip."""
    others = [(thing.colour, thing.kind) for other in clip.things if other is not seen for thing in other.whenever]
    return short_name(world, seen.pair, others)


# --- questions ---------------------------------------------------------------------------------------------------


def order(world: World, clip: Watched) -> Exchange | None:
    """Ask which of two things appears first, or second."""
    pair = pair_of(world, clip, lambda seen: len(seen.appears) == 1 and seen.late)
    if not pair or pair[0].appears == pair[1].appears:
        return None
    early, late = sorted(pair, key=lambda seen: seen.appears)
    one, other = (called(world, seen, clip) for seen in pair)
    return exchange(world, "order", one=one, other=other, early=early.name, late=late.name)


class Asked(NamedTuple):
    """An event that is asked about; `time` is None if it never happens."""

    whom: str
    what: str
    time: str | None
    do: str = "does"


def when(world: World, clip: Watched) -> Exchange | None:
    """Ask for the time of an event that happens once, or, sometimes, of an event that never happens. Both share the
    wordings, so that only the clip gives the answer away."""
    event = event_asked(world, clip)
    if event is None:
        return None
    whom, what, time, do = event
    it = "it" if do == "does" else "they"
    answers = ("never", "at no time.", f"{it} never {what}.")
    if time:
        answers = (time, f"at {time}.", f"{it} {what} at {time}.")
    forms = dict(zip(("time", "at", "sentence"), answers, strict=True))
    return exchange(world, "when", also=answers, do=do, whom=whom, what=what, bare=BARE.get(what, what), **forms)


def event_asked(world: World, clip: Watched) -> Asked | None:
    """Return an event that happens once, or, sometimes, one that never happens; None if the clip has none."""
    if world.chance(NEVER):
        return _never(world, clip)
    phrases = [(event.whom, event.what) for event in clip.events]
    once = [
        event
        for event in clip.events
        if phrases.count((event.whom, event.what)) == 1 and owned(world, event)
        if event.what != "appears" or event.things[0].late
    ]
    if not once:
        return None
    frame, whom, what, things = world.one(once)
    if len(things) == 1:
        whom = f"the {called(world, things[0], clip)}"
    return Asked(whom, what, seconds(clip.times[frame]), "does" if len(things) == 1 else "do")


def _never(world: World, clip: Watched) -> Asked | None:
    """Return an event that never happens, to a thing of the clip or to an absent thing."""
    seen = subject(world, clip)
    if seen is None:
        return None
    if seen.recolours or world.chance():  # a recoloured thing could be said to have vanished
        whom, missing = " ".join(world.alike(seen.pair, clip.shown)), list(BARE)
    else:
        whom, missing = seen.name, ["changes its colour", *([] if seen.vanishes else ["vanishes"])]
    return Asked(f"the {whom}", world.one(missing), None)


def direction(world: World, clip: Watched) -> Exchange | None:
    """Ask in which direction a thing moves."""
    seen = subject(world, clip, lambda seen: seen.direction)
    if seen is None or seen.direction is None:
        return None
    way = WAYS[seen.direction]
    return exchange(world, "direction", name=called(world, seen, clip), direction=seen.direction, way=way)


def doing(world: World, clip: Watched) -> Exchange | None:
    """Ask for the only action of a thing."""
    seen = subject(world, clip)
    if seen is None:
        return None
    does = [*(["it appears"] if seen.appears else []), *(["it vanishes"] if seen.vanishes else [])]
    does += ["it changes its colour"] if seen.recolours else []
    does += ["it turns"] if seen.turns else []
    does += [f"it moves {WAYS[seen.direction]}" if seen.direction else ""] if seen.moves else []
    if len(does) > 1 or "" in does or len(seen.appears) > 1 or len(seen.recolours) > 1:
        return None
    (answer,) = does or ["it stays still"]
    return exchange(world, "doing", name=called(world, seen, clip), deed=answer)


def times(world: World, clip: Watched) -> Exchange | None:
    """Ask how many times a thing appears."""
    seen = subject(world, clip, lambda seen: seen.appears and seen.late)
    if seen is None:
        return None
    number = len(seen.appears)
    words = f"{NUMBERS[number]} {'time' if number == 1 else 'times'}"
    return exchange(world, "times", name=called(world, seen, clip), figure=str(number), number=words)


def how_long(world: World, clip: Watched) -> Exchange | None:
    """Ask how long a thing is there: the time from its first frame to the first frame without it."""
    seen = subject(world, clip, lambda seen: len(seen.vanishes) == 1 and seen.at[-1] is None)
    if seen is None:
        return None
    first = seen.appears[0] if seen.appears else 0
    start, end = (round(clip.times[i], 1) for i in (first, seen.vanishes[0]))
    return exchange(world, "how_long", name=called(world, seen, clip), length=seconds(end - start))


def after(world: World, clip: Watched) -> Exchange | None:
    """Ask for the next event after a thing appears."""
    events = clip.events
    if len({event.frame for event in events}) < len(events) or any(seen.moves for seen in clip.things):
        return None
    following = [
        (event, other)
        for event, other in pairwise(events)
        if event.what == "appears" and len(event.things[0].appears) == 1 and event.whom != other.whom
        if owned(world, event) and owned(world, other)
    ]
    if not following:
        return None
    (_, _, _, (seen, *_)), (_, next_one, what, _) = world.one(following)
    whom = f"the {called(world, seen, clip)}"
    words = {"whom": whom, "next_one": next_one, "what": what}
    if what == "appears":
        words["bare"] = next_one.removeprefix("the ")
    return exchange(world, "after", **words)


def collide(world: World, clip: Watched) -> Exchange | None:
    """Ask whether two things touch, of which at least one moves."""
    pairs = [pair for pair in clip.meetings if all(world.owns(*seen.pair) for seen in pair)]
    if not pairs:
        return None
    first, second = world.distinct(world.one(pairs), 2)
    frame = clip.touch(first, second)
    if frame is None:
        return None
    answer = "no" if frame < 0 else "yes"
    return exchange(
        world, "collide", first=called(world, first, clip), second=called(world, second, clip), answer=answer
    )


def becomes(world: World, clip: Watched) -> Exchange | None:
    """Ask for the new colour of a thing."""
    seen = subject(world, clip, lambda seen: len(seen.recolours) == 1)
    if seen is None:
        return None
    return exchange(world, "becomes", name=called(world, seen, clip), colour=seen.whenever[-1].colour)


def what_at(world: World, clip: Watched) -> Exchange | None:
    """Ask for the things of one frame, from left to right."""
    frame = world.count(0, len(clip.times) - 1)
    things = from_left(clip.at(frame))
    if things is None:
        return None
    names = listed([name(thing) for thing in things])
    return exchange(world, "what_at", time=seconds(clip.times[frame]), listed=names)


def there_clip(world: World, clip: Watched) -> Exchange | None:
    """Ask whether a thing is ever there; an absent thing shares its colour or kind with a thing of the clip."""
    seen = subject(world, clip)
    if seen is None:
        return None
    asked, answer = seen.pair, "yes"
    if world.chance():
        asked, answer = world.alike(asked, clip.shown), "no"
    return exchange(world, "there_clip", thing=" ".join(asked), answer=answer)


def count_clip(world: World, clip: Watched) -> Exchange | None:
    """Ask for the number of things in the clip, none of which changes its colour."""
    number = len(clip.things)
    if not 1 <= number <= 5 or any(seen.recolours for seen in clip.things):
        return None
    things = f"{NUMBERS[number]} {'thing' if number == 1 else 'different things'}"
    return exchange(world, "count_clip", figure=str(number), things=things)


def describe_clip(world: World, clip: Watched) -> Exchange | None:
    """Ask for a description: all events in order, with their times."""
    events = clip.events
    start = from_left(clip.at(0))
    if start is None or len(clip.things) > 3 or len(events) > 4 or len({event.frame for event in events}) < len(events):
        return None
    sentences = [f"At {seconds(clip.times[0])} there is {listed([name(thing) for thing in start])}."]
    for frame, whom, what, (seen, *_) in events:
        if what == "appears" and frame == seen.appears[0]:
            whom = with_article(seen.name)
        if what == "changes its colour":
            what = f"becomes {seen.whenever[-1].colour}"
        sentences.append(f"At {seconds(clip.times[frame])} {whom} {what}.")
    met = [seen for event in events if event.what == "collide" for seen in event.things]
    going = [seen for seen in clip.things if (seen.moves or seen.turns) and seen not in met]
    if len(going) > 1 or any(seen.moves and not seen.direction for seen in going):
        return None
    sentences += [
        f"The {seen.name} {f'moves {WAYS[seen.direction]}' if seen.direction else 'turns'}." for seen in going
    ]
    return exchange(world, "describe_clip", story=" ".join(sentences))


# --- clips -------------------------------------------------------------------------------------------------------

COMING = ("appears", "vanishes", "visits", "stays")
CHANGING = ("appears", "vanishes", "recolours", "moves", "turns", "stays")
HAPPENING = ("appears", "appears", "vanishes", "recolours")
STORIES: dict[Question, Sequence[Sequence[Sequence[str]]]] = {
    order: [[("appears",), ("appears", "visits")]],
    when: [[("appears", "vanishes", "recolours", "collides", "visits"), CHANGING]],
    direction: [[("moves",)], [("moves",), CHANGING]],
    doing: [[CHANGING], [CHANGING, CHANGING]],
    times: [[("blinks",)], [("blinks",), COMING]],
    how_long: [[("visits", "vanishes")], [("visits", "vanishes"), COMING]],
    after: [[("appears",), HAPPENING, HAPPENING]],
    collide: [[("collides",)], [("misses",)]],
    becomes: [[("recolours",)], [("recolours",), CHANGING]],
    describe_clip: [[CHANGING], [CHANGING, COMING], [COMING, COMING, HAPPENING], [("collides",)]],
    what_at: [[COMING], [COMING, COMING], [COMING, COMING, COMING]],
    there_clip: [[COMING], [COMING, CHANGING], [COMING, COMING, COMING]],
    count_clip: [number * [COMING] for number in range(1, 6)],
}
"""For each question, its possible casts: for each member of a cast, the possible actions."""
QUESTIONS: Sequence[Question] = tuple(STORIES)
ALONE: Sequence[Question] = (count_clip, describe_clip, after)
"""Questions whose clips have no things beside the cast."""


def story(world: World, ask: Question, timing: Timing | None = None) -> Watched:
    """Return a random clip for a question."""
    actions = [world.one(choices) for choices in world.one(STORIES[ask])]
    needed = cast(actions)
    pairs = world.pairs(needed if ask in ALONE else needed + world.count(0, 1), needed)
    return film(world, actions, pairs, timing)


def _about(ask: Question, world: World) -> Sample:
    watched, turn = asked(world, partial(story, ask=ask), ask)
    return Sample([watched.clip], [turn], watched.video_fps)


TASKS: dict[str, Task] = {ask.__name__: partial(_about, ask) for ask in QUESTIONS}
