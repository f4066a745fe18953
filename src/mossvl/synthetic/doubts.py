"""Doubt: questions about what is not there, not written or does not happen, in the wordings of all other questions.

Each answer is one of a few sentences that say what is missing.
"""

from collections.abc import Callable, Mapping
from functools import partial

from mossvl.synthetic import clips, pictures, several
from mossvl.synthetic.clips import subject
from mossvl.synthetic.palettes import COLOURS
from mossvl.synthetic.scene import Scene
from mossvl.synthetic.shapes import KINDS
from mossvl.synthetic.watching import Seen, Watched
from mossvl.synthetic.wording import Exchange, Sample, Task, asked, doubted
from mossvl.synthetic.world import PAIRS, Pair, World

ABSENT = "There is no {name}."
EMPTY, EMPTY_PLACE = "There is nothing.", "There is nothing {place}."
UNWRITTEN = "Nothing is written there."
STILL = "It does not move."
UNCHANGED = "It does not change its colour."
STAYING = "It stays until the end."
EARLY = "It is there from the start."
QUIET = "Nothing happens after that."
ENDED = "The clip ends before that."

PLACES = (
    *("in the middle", "at the left", "at the right", "at the top", "at the bottom"),
    *("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
)


def absent(world: World, table: str, shown: list[Pair], slot: str = "name", the: str = "", **others: str) -> Exchange:
    """Ask about a thing that is not shown, but shares its colour or kind with one that is, where there is one.

    Args:
        slot: the word of the table that names the thing.
        others: the other words of the question.
    """
    colour, kind = world.alike(world.one(shown), shown) if shown else world.one(tuple(PAIRS[world.split]))
    lone = world.edition.short and world.chance(world.edition.short) and all(kind != other for _, other in shown)
    name = kind if lone else f"{colour} {kind}"
    return doubted(world, table, ABSENT.format(name=name), **{slot: f"{the}{name}"}, **others)


# --- pictures ----------------------------------------------------------------------------------------------------


def _pairs(scene: Scene) -> list[Pair]:
    return [(thing.colour, thing.kind) for thing in scene.things if not thing.word]


def describe(world: World, scene: Scene) -> Exchange | None:
    if scene.things or scene.background.pattern == "photograph":
        return None
    return doubted(world, "describe", EMPTY)


def which(world: World, scene: Scene) -> Exchange | None:
    side = world.one(tuple(pictures.MOST))
    return None if scene.things else doubted(world, "which", EMPTY, side=side, most=pictures.MOST[side])


def what(world: World, scene: Scene) -> Exchange | None:
    colour = world.one([one for one in COLOURS if all(one != thing.colour for thing in scene.things)])
    return doubted(world, "what", ABSENT.format(name=f"{colour} thing"), colour=colour)


def colour(world: World, scene: Scene) -> Exchange | None:
    kind = world.one([one for one in KINDS if all(one != thing.kind for thing in scene.things)])
    return doubted(world, "colour", ABSENT.format(name=kind), kind=kind)


def at(world: World, scene: Scene) -> Exchange | None:
    taken = [pictures.place(thing) for thing in scene.things]
    if None in taken or any(thing.word or thing.radius > 0.16 for thing in scene.things):
        return None
    place = world.one([place for place in PLACES if place not in taken])
    return doubted(world, "at", EMPTY_PLACE.format(place=place), place=place)


def read(world: World, scene: Scene) -> Exchange | None:
    return None if any(thing.word for thing in scene.things) else doubted(world, "read", UNWRITTEN)


def _absent_in(table: str) -> Callable[[World, Scene], Exchange]:
    return lambda world, scene: absent(world, table, _pairs(scene))


PICTURES: Mapping[str, Callable[[World, Scene], Exchange | None]] = {
    **{table: _absent_in(table) for table in ("where", "looks")},
    **{ask.__name__: ask for ask in (describe, which, what, colour, at, read)},
}


# --- clips -------------------------------------------------------------------------------------------------------


def _of_one(world: World, clip: Watched, fits: Callable[[Seen], object], table: str, answer: str) -> Exchange | None:
    """Ask the questions of a table about a thing of the clip that fits, if there is one."""
    seen = subject(world, clip, fits)
    return None if seen is None else doubted(world, table, answer, name=clips.called(world, seen, clip))


def direction(world: World, clip: Watched) -> Exchange | None:
    return _of_one(world, clip, lambda seen: not seen.moves, "direction", STILL)


def becomes(world: World, clip: Watched) -> Exchange | None:
    return _of_one(world, clip, lambda seen: not seen.recolours, "becomes", UNCHANGED)


def times(world: World, clip: Watched) -> Exchange | None:
    return _of_one(world, clip, lambda seen: not seen.appears, "times", EARLY)


def how_long(world: World, clip: Watched) -> Exchange | None:
    return _of_one(world, clip, lambda seen: not seen.vanishes, "how_long", STAYING)


def after(world: World, clip: Watched) -> Exchange | None:
    if not clip.events or any(seen.moves for seen in clip.things):
        return None
    *_, last = clip.events
    if last.what != "appears" or len(last.things[0].appears) > 1 or not clips.owned(world, last):
        return None
    whom = f"the {clips.called(world, last.things[0], clip)}"
    return doubted(world, "after", QUIET, whom=whom)


def what_at(world: World, clip: Watched) -> Exchange | None:
    end = clip.clip.part[1] if clip.clip.part else clip.clip.seconds
    return doubted(world, "what_at", ENDED, time=f"{end + world.count(10, 200) / 10:.1f} seconds")


def _absent_from(table: str) -> Callable[[World, Watched], Exchange]:
    return lambda world, clip: absent(world, table, clip.shown)


def _one_absent(table: str, slots: tuple[str, str]) -> Callable[[World, Watched], Exchange | None]:
    def ask(world: World, clip: Watched) -> Exchange | None:
        seen = subject(world, clip)
        here, missing = world.distinct(slots, 2)
        return (
            None
            if seen is None
            else absent(world, table, clip.shown, missing, **{here: clips.called(world, seen, clip)})
        )

    return ask


_HAPPENING = {ask.__name__: ask for ask in (direction, becomes, times, how_long, after, what_at)}
_ABSENT = {
    **{table: _absent_from(table) for table in ("direction", "becomes", "times", "how_long", "doing")},
    "order": _one_absent("order", ("one", "other")),
    "collide": _one_absent("collide", ("first", "second")),
}


def _either(table: str, world: World, clip: Watched) -> Exchange | None:
    return world.one([asks[table] for asks in (_HAPPENING, _ABSENT) if table in asks])(world, clip)


CLIPS: Mapping[str, Callable[[World, Watched], Exchange | None]] = {
    table: partial(_either, table) for table in dict.fromkeys([*_HAPPENING, *_ABSENT])
}


# --- samples -----------------------------------------------------------------------------------------------------


def _of_picture(table: str, world: World) -> Sample:
    empty = table in ("describe", "which") or (table == "read" and world.chance(0.2))
    scene, turn = asked(world, partial(pictures.some, least=0, most=0 if empty else 4), PICTURES[table])
    return Sample([scene], [turn])


def _of_clip(table: str, world: World) -> Sample:
    story = partial(clips.story, ask=clips.after if table == "after" else world.one(clips.QUESTIONS))
    watched, turn = asked(world, story, CLIPS[table])
    return Sample([watched.clip], [turn], watched.video_fps)


TASKS: dict[str, Task] = {
    **{table: partial(_of_picture, table) for table in PICTURES},
    **{table: partial(_of_clip, table) for table in CLIPS},
    **several.DOUBTS,
}
"""Doubtful samples, by the task that they belong to."""
