"""Questions about one picture, with their answers: one function for each task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mossvl.synthetic.scene import COLOURS, SIZES, Clip, Scene, Thing
from mossvl.synthetic.shapes import KINDS
from mossvl.synthetic.world import PAIRS, Split, World

NUMBERS = ("no", "one", "two", "three", "four", "five")
EDGE = 0.05
"""How far a place is from the borders between left, middle and right, or above and below, to be called by name."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    task: str
    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """What is shown, in this order, and the questions about it."""

    media: Sequence[Scene | Clip]
    turns: Sequence[Exchange]


def name(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"


def full_name(thing: Thing) -> str:
    texture = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"{thing.size} {texture}{name(thing)}"


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def place(thing: Thing) -> str | None:
    """Where a thing is, in words; None if it is near the border between two of them."""
    columns, rows = (_third(value) for value in (thing.x, thing.y))
    if columns is None or rows is None:
        return None
    across, down = ("left", "middle", "right")[columns], ("top", "middle", "bottom")[rows]
    if across == down == "middle":
        return "in the middle"
    return f"at the {' '.join(word for word in (down, across) if word != 'middle')}"


def _third(value: float) -> int | None:
    return None if min(abs(value - 1 / 3), abs(value - 2 / 3)) < EDGE else int(value * 3)


def phrased(world: World, task: str, wordings: Sequence[tuple[str, str]], **words: str) -> Exchange:
    """One of several (question, answer), each with words in braces."""
    question, answer = world.one(wordings)
    filled = answer.format(**words)
    return Exchange(task, question.format(**words), filled[0].upper() + filled[1:] if " " in filled else filled)


# --- tasks -------------------------------------------------------------------------------------------------------


def describe(world: World) -> Sample:
    """All things from the left to the right."""
    scene = world.scene(world.count(1, 3))
    things = [with_article(full_name(thing)) for thing in sorted(scene.things, key=lambda thing: thing.x)]
    listed = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    wordings = [
        ("Describe the picture.", "{listed}."),
        ("What is in the picture, from left to right?", "{listed}."),
        ("What do you see?", "I see {listed}."),
    ]
    return Sample([scene], [phrased(world, "describe", wordings, listed=listed)])


def what(world: World) -> Sample:
    """The shape of the only thing of a colour."""
    scene = world.scene(world.count(1, 4))
    subject = scene.things[0]
    if sum(thing.colour == subject.colour for thing in scene.things) > 1:
        return what(world)
    wordings = [
        ("What shape is the {colour} thing?", "{kind}"),
        ("What is the {colour} thing?", "it is {kinds}."),
        ("Which shape is {colour}?", "the {kind}."),
    ]
    words = {"colour": subject.colour, "kind": subject.kind, "kinds": with_article(subject.kind)}
    return Sample([scene], [phrased(world, "what", wordings, **words)])


def colour(world: World) -> Sample:
    """The colour of the only thing of a shape."""
    scene = world.scene(world.count(1, 4))
    subject = scene.things[0]
    if sum(thing.kind == subject.kind for thing in scene.things) > 1:
        return colour(world)
    wordings = [
        ("Which colour is the {kind}?", "{colour}"),
        ("What colour does the {kind} have?", "the {kind} is {colour}."),
    ]
    return Sample([scene], [phrased(world, "colour", wordings, colour=subject.colour, kind=subject.kind)])


def where(world: World) -> Sample:
    """The place of a thing."""
    scene = world.scene(world.count(1, 4))
    found = place(scene.things[0])
    if found is None:
        return where(world)
    wordings = [("Where is the {name}?", "{place}."), ("Where in the picture is the {name}?", "it is {place}.")]
    return Sample([scene], [phrased(world, "where", wordings, name=name(scene.things[0]), place=found)])


def which(world: World) -> Sample:
    """The outermost thing in some direction."""
    scene = world.scene(world.count(2, 4))
    side, axis, sign = world.one([("left", "x", 1), ("right", "x", -1), ("top", "y", 1), ("bottom", "y", -1)])

    def key(thing: Thing) -> float:
        return sign * float(getattr(thing, axis))

    first, second, *_ = sorted(scene.things, key=key)
    if first is not scene.things[0] or key(second) - key(first) < 2 * EDGE:
        return which(world)
    wordings = [
        ("Which thing is nearest to the {side}?", "the {name}."),
        ("What is closest to the {side} edge?", "{name}"),
    ]
    return Sample([scene], [phrased(world, "which", wordings, side=side, name=name(first))])


def count(world: World) -> Sample:
    """How many things of a shape, or of a colour, there are: none to five."""
    wanted = world.count(0, 5)
    of_kind = world.random.random() < 0.5
    subject = world.one(PAIRS[world.split])[of_kind]

    def fits(pair: tuple[str, str]) -> bool:
        return pair[of_kind] == subject

    pairs = [pair for pair in PAIRS[Split.TRAIN] + PAIRS[world.split] if fits(pair)]
    others = [pair for pair in PAIRS[Split.TRAIN] if not fits(pair)]
    chosen = world.distinct(sorted(set(pairs)), wanted) + world.distinct(others, world.count(0 if wanted else 1, 2))
    scene = world.arranged(
        [
            Thing(kind, own, "small" if len(chosen) > 4 else world.one(list(SIZES)), world.texture())
            for own, kind in chosen
        ]
    )
    noun = subject if of_kind else f"{subject} thing"
    asked = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    there = f"there is one {noun}" if wanted == 1 else f"there are {NUMBERS[wanted]} {asked}"
    wordings = [
        ("How many {asked} are there?", "{figure}"),
        ("How many {asked} do you see?", "{figure}"),
        ("Count the {asked}.", "{there}."),
    ]
    return Sample([scene], [phrased(world, "count", wordings, asked=asked, figure=str(wanted), there=there)])


def read(world: World) -> Sample:
    """What is written, beside other things."""
    others = world.scene(world.count(0, 2)).things
    word = Thing("word", world.one(list(COLOURS)), "large", word=world.word())
    scene = world.arranged([word, *others])
    wordings = [
        ("What is written there?", "{word}"),
        ("Read the text.", "{word}"),
        ("What does it say?", "it says {word}."),
    ]
    return Sample([scene], [phrased(world, "read", wordings, word=word.word)])


def there(world: World) -> Sample:
    """Whether there is a thing; where not, something else has its colour or its shape, as a rule."""
    scene = world.scene(world.count(1, 4))
    subject = scene.things[0]
    asked, answer = (subject.colour, subject.kind), "yes"
    if world.random.random() < 0.5:
        shown = {(thing.colour, thing.kind) for thing in scene.things}
        alike = [(subject.colour, kind) for kind in KINDS] + [(other, subject.kind) for other in COLOURS]
        asked, answer = world.one([pair for pair in alike if pair not in shown]), "no"
    wordings = [
        ("Is there {thing}?", "{answer}"),
        ("Do you see {thing}?", "{answer}"),
        ("Does the picture show {thing}?", "{answer}"),
    ]
    return Sample([scene], [phrased(world, "there", wordings, thing=with_article(" ".join(asked)), answer=answer)])


TASKS: dict[str, Callable[[World], Sample]] = {
    task.__name__: task for task in (describe, what, colour, where, which, count, read, there)
}
