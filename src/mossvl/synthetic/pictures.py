"""Questions about one picture, with their answers: one function for each task.

A function returns None if the picture has no clear answer to its question.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from mossvl.synthetic.scene import COLOURS, Scene, Thing
from mossvl.synthetic.shapes import KINDS
from mossvl.synthetic.wording import (
    EDGE,
    Exchange,
    Sample,
    Task,
    asked,
    exchange,
    from_left,
    full_name,
    joined,
    name,
    plural,
    short_name,
    with_article,
)
from mossvl.synthetic.world import PAIRS, SHOWN, Split, World

Question = Callable[[World, Scene], Exchange | None]
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
WRITTEN = 5
"""Things beside a word are as small as among so many things."""
MOST = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "lowest"}


def place(thing: Thing) -> str | None:
    """Return a thing's place in words, by thirds of the picture; None near a border between two thirds."""
    columns, rows = (_third(value) for value in (thing.x, thing.y))
    if columns is None or rows is None:
        return None
    across, down = ("left", "middle", "right")[columns], ("top", "middle", "bottom")[rows]
    if across == down == "middle":
        return "in the middle"
    return f"at the {' '.join(word for word in (down, across) if word != 'middle')}"


def _third(value: float) -> int | None:
    return None if min(abs(value - 1 / 3), abs(value - 2 / 3)) < EDGE else int(value * 3)


def subject(world: World, scene: Scene, alone: str = "") -> Thing | None:
    """Return a random thing of the world's split, or None.

    Args:
        alone: "colour" or "kind": only things whose colour or kind no other thing has.
    """
    values = [getattr(thing, alone) if alone else "" for thing in scene.things]
    fitting = [
        thing
        for thing, value in zip(scene.things, values, strict=True)
        if world.owns(thing.colour, thing.kind) and (not alone or values.count(value) == 1)
    ]
    return world.one(fitting) if fitting else None


def called(world: World, thing: Thing, scene: Scene) -> str:
    """Return the name by which a question calls a thing of a picture."""
    others = [(other.colour, other.kind) for other in scene.things if other is not thing]
    return short_name(world, (thing.colour, thing.kind), others)


# --- questions ---------------------------------------------------------------------------------------------------


def describe(world: World, scene: Scene) -> Exchange | None:
    """Ask for all things, from left to right."""
    things = from_left(scene.things)
    if not things or len(things) > 3:
        return None
    names = [f"the text {thing.word}" if thing.word else with_article(full_name(thing)) for thing in things]
    return exchange(world, "describe", listed=joined(names))


def what(world: World, scene: Scene) -> Exchange | None:
    """Ask for the shape of the only thing of a colour."""
    thing = subject(world, scene, alone="colour")
    if thing is None:
        return None
    return exchange(world, "what", colour=thing.colour, kind=thing.kind)


def colour(world: World, scene: Scene) -> Exchange | None:
    """Ask for the colour of the only thing of a shape."""
    thing = subject(world, scene, alone="kind")
    if thing is None:
        return None
    return exchange(world, "colour", colour=thing.colour, kind=thing.kind)


def where(world: World, scene: Scene) -> Exchange | None:
    """Ask for the place of a thing."""
    thing = subject(world, scene)
    found = thing and place(thing)
    if not thing or not found:
        return None
    return exchange(world, "where", name=called(world, thing, scene), place=found)


def at(world: World, scene: Scene) -> Exchange | None:
    """Ask for the thing at a place."""
    thing = subject(world, scene)
    places = [place(other) for other in scene.things]
    found = thing and place(thing)
    if not thing or not found or None in places or places.count(found) > 1:
        return None
    return exchange(world, "at", place=found, kind=thing.kind, name=name(thing))


def which(world: World, scene: Scene) -> Exchange | None:
    """Ask for the outermost thing in a direction."""
    if any(thing.word for thing in scene.things):  # A word is wide: its centre does not show how near its edge is.
        return None
    side, axis, sign = world.one([("left", "x", 1), ("right", "x", -1), ("top", "y", 1), ("bottom", "y", -1)])

    def key(thing: Thing) -> float:
        return sign * float(getattr(thing, axis))

    first, *others = sorted(scene.things, key=key)
    if not others or not world.owns(first.colour, first.kind) or key(others[0]) - key(first) < 2 * EDGE:
        return None
    return exchange(world, "which", side=side, most=MOST[side], name=name(first))


def looks(world: World, scene: Scene) -> Exchange | None:
    """Ask for the size or the texture of a thing."""
    thing = subject(world, scene)
    if thing is None:
        return None
    size = {"size": thing.called} if thing.called else {}
    return exchange(world, "looks", name=called(world, thing, scene), texture=thing.texture, **size)


def count(world: World, scene: Scene) -> Exchange | None:
    """Ask for the number of things of a shape or colour, usually the most frequent shape or colour."""
    shapes = [thing for thing in scene.things if not thing.word]
    shown = Counter(thing.kind for thing in shapes) + Counter(thing.colour for thing in shapes)
    if world.chance(0.2) or not shown:
        return counted(world, scene, world.one([*COLOURS, *KINDS]))
    most = max(shown.values())
    return counted(world, scene, world.one([noun for noun, number in shown.items() if number == most]))


def counted(world: World, scene: Scene, asked: str) -> Exchange | None:
    """Ask for the number of things of a kind, or of a colour that no word has."""
    if any(thing.word and thing.colour == asked for thing in scene.things):
        return None
    number = sum(asked in (thing.kind, thing.colour) for thing in scene.things)
    noun = f"{asked} thing" if asked in COLOURS else asked
    there = f"there is one {noun}" if number == 1 else f"there are {NUMBERS[number]} {plural(noun)}"
    return exchange(world, "count", noun=noun, figure=str(number), there=there)


def count_all(world: World, scene: Scene) -> Exchange | None:
    """Ask for the number of all shapes."""
    if any(thing.word for thing in scene.things):
        return None
    return exchange(world, "count_all", figure=str(len(scene.things)))


def read(world: World, scene: Scene) -> Exchange | None:
    """Ask for the only word of a picture."""
    words = [thing.word for thing in scene.things if thing.word]
    if len(words) != 1:
        return None
    return exchange(world, "read", word=words[0])


def there(world: World, scene: Scene) -> Exchange | None:
    """Ask whether a thing is there; an absent thing shares its colour or kind with a thing of the picture."""
    thing = subject(world, scene)
    if thing is None:
        return None
    asked, answer = (thing.colour, thing.kind), "yes"
    if world.chance():
        asked, answer = world.alike(asked, [(other.colour, other.kind) for other in scene.things]), "no"
    return exchange(world, "there", thing=" ".join(asked), answer=answer)


# --- pictures ----------------------------------------------------------------------------------------------------


def some(world: World, least: int = 1, most: int = 4) -> Scene:
    """Return a scene of `least` to `most` things."""
    return world.scene(world.count(least, most))


def written(world: World) -> Scene:
    """Return a scene of a word and up to two things."""
    word, pairs = world.writing(), world.pairs(world.count(0, 2))
    return world.arranged([word, *(world.thing(*pair, among=WRITTEN) for pair in pairs)])


def many(world: World) -> tuple[Scene, str]:
    """Return a scene with zero to five things of one kind or colour among others, and that kind or colour."""
    number, of_kind = world.count(0, world.edition.most), world.chance()
    noun = world.one(PAIRS[world.split])[of_kind]
    fitting = [pair for pair in SHOWN[world.split] if pair[of_kind] == noun]
    others = [pair for pair in PAIRS[Split.TRAIN] if pair[of_kind] != noun]
    chosen = world.distinct(fitting, number) + world.distinct(others, world.count(0 if number else 1, 2))
    size = "small" if len(chosen) > 4 else ""
    return world.arranged([world.thing(*pair, size, len(chosen)) for pair in chosen]), noun


def crowd(world: World) -> Scene:
    """Return a scene of any number of shapes that are counted, small if they are many."""
    count = world.count(0, world.edition.most + 2)
    size = "small" if count > 4 else ""
    return world.arranged([world.thing(*pair, size, count) for pair in world.pairs(count)])


def _count(world: World) -> Sample:
    (scene, _), turn = asked(world, many, lambda world, shown: counted(world, *shown))
    return Sample([scene], [turn])


def _about(show: Callable[[World], Scene], ask: Question, world: World) -> Sample:
    scene, turn = asked(world, show, ask)
    return Sample([scene], [turn])


QUESTIONS: Sequence[Question] = (describe, what, colour, where, at, which, looks, count, read, there)
_SHOWN: dict[Question, Callable[[World], Scene]] = {
    describe: partial(some, most=3),
    at: partial(some, least=2),
    which: partial(some, least=2),
    read: written,
}
TASKS: dict[str, Task] = {ask.__name__: partial(_about, _SHOWN.get(ask, some), ask) for ask in QUESTIONS}
TASKS["count"] = _count
COUNTS: dict[str, Task] = {"count_all": partial(_about, crowd, count_all)}
