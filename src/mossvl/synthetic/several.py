"""Questions about several pictures and clips together: one function for each task."""

from collections.abc import Sequence
from dataclasses import replace

from mossvl.processing.prompt import IMAGE, VIDEO
from mossvl.synthetic.events import Timing, film
from mossvl.synthetic.scene import Scene
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.wording import Sample, Task, doubted, exchange, seconds, with_article
from mossvl.synthetic.world import Pair, World

PLACES = ("first", "second")
VERBS = {"moves": "move", "vanishes": "vanish", "appears": "appear", "recolours": "change its colour"}


def picture(world: World, pairs: Sequence[Pair]) -> Scene:
    """Return a scene of things with these colours and kinds."""
    return world.arranged([world.thing(*pair, among=len(pairs)) for pair in pairs])


def among(world: World, pair: Pair | None, absent: Pair, most: int = 2) -> Scene:
    """Return a scene of `pair`, or of a pair like `absent`, among other things that are neither."""
    shown = [pair or world.alike(absent, [absent])]
    shown += [other for other in world.pairs(world.count(0, most), 0) if other not in (absent, *shown)]
    return picture(world, world.distinct(shown, len(shown)))


def filmed(
    world: World, action: str, pair: Pair, absent: Pair | None = None, video_fps: float | None = None
) -> Watched:
    """Return a clip of a thing with an action, half the time beside another thing, never the absent pair."""
    others = [other for other in world.pairs(world.count(0, 1), 0) if other not in (pair, absent)]
    return film(world, [action], [pair, *others], Timing(world, video_fps))


def compare(world: World) -> Sample:
    """Ask which of two pictures shows a thing."""
    (pair,) = world.pairs(1)
    number = world.count(0, 1)
    scenes = [among(world, pair if i == number else None, pair) for i in range(2)]
    turn = exchange(world, "compare", thing=" ".join(pair), place=PLACES[number])
    return Sample(scenes, [turn])


def difference(world: World) -> Sample:
    """Ask for the difference of two pictures: one thing has another colour or shape."""
    pairs = world.pairs(world.count(1, 3))
    changed = world.count(0, 1)
    before, after = pairs[0], world.alike(pairs[0], pairs, position=changed)
    same = before[1 - changed]
    if any(other[1 - changed] == same for other in pairs[1:]):
        return difference(world)
    scene = picture(world, pairs)
    first, *others = scene.things
    look = first.look if after[1] == first.kind else replace(first.look, variant=0)
    other = replace(first, kind=after[1], colour=after[0], look=look)
    background = world.background([*(colour for colour, _ in pairs), after[0]])
    scenes = [Scene([thing, *others], background) for thing in (first, other)]
    what = f"the {same} thing" if changed else f"the {same}"
    one, two = (with_article(pair[1]) if changed else pair[0] for pair in (before, after))
    answer = f"{what} is {one} in the first picture and {two} in the second."
    return Sample(scenes, [exchange(world, "difference", answer=answer)])


def which_picture(world: World) -> Sample:
    """Ask which of three or four numbered pictures shows a thing."""
    (pair,) = world.pairs(1)
    count = world.count(3, 4)
    number = world.count(1, count)
    scenes = [among(world, pair if i == number else None, pair, most=1) for i in range(1, count + 1)]
    pictures = " ".join(f"Picture {i}: {IMAGE}" for i in range(1, count + 1))
    words = {"pictures": pictures, "thing": " ".join(pair), "number": str(number)}
    return Sample(scenes, [exchange(world, "which_picture", **words)])


def which_clip(world: World) -> Sample:
    """Ask in which of two clips a thing, which both show, has an action."""
    action, other = world.distinct(tuple(VERBS), 2)
    if world.chance():
        other = "stays"
    (pair,) = world.pairs(1)
    first = filmed(world, action, pair)
    clips = [first, filmed(world, other, pair, video_fps=first.video_fps)]
    number = world.count(0, 1)
    words = {"name": " ".join(pair), "verb": VERBS[action], "place": PLACES[number]}
    shown = [clip.clip for clip in (clips if number == 0 else clips[::-1])]
    return Sample(shown, [exchange(world, "which_clip", **words)], first.video_fps)


def matching(world: World) -> Sample:
    """Ask whether a clip shows the thing of a picture, and when the thing appears."""
    asked, other = world.pairs(2, subjects=2)
    there = world.chance()
    shown = asked if there else world.one((other, world.alike(asked, [asked])))
    clip = filmed(world, "appears", shown, asked)
    media = f"Here is a picture: {IMAGE} And here is a clip: {VIDEO}"
    turns = [exchange(world, "matching", media=media, answer="yes" if there else "no")]
    if there:
        time = seconds(clip.times[clip.things[0].appears[0]])
        turns.append(exchange(world, "matching when", time=time))
    return Sample([picture(world, [asked]), clip.clip], turns, clip.video_fps)


# --- doubt -------------------------------------------------------------------------------------------------------

NEITHER, NONE_OF_THEM, SAME = "In neither of them.", "In none of them.", "There is no difference."


def _compare(world: World) -> Sample:
    """Ask which of two pictures shows a thing that neither shows."""
    (pair,) = world.pairs(1)
    scenes = [among(world, None, pair) for _ in range(2)]
    return Sample(scenes, [doubted(world, "compare", NEITHER, thing=" ".join(pair))])


def _difference(world: World) -> Sample:
    """Ask for the difference of two equal pictures."""
    pairs = world.pairs(world.count(1, 3))
    scene = picture(world, pairs)
    return Sample([scene, scene], [doubted(world, "difference", SAME)])


def _which_picture(world: World) -> Sample:
    """Ask which of three or four pictures shows a thing that none shows."""
    (pair,) = world.pairs(1)
    scenes = [among(world, None, pair, most=1) for _ in range(world.count(3, 4))]
    pictures = " ".join(f"Picture {i}: {IMAGE}" for i in range(1, len(scenes) + 1))
    return Sample(scenes, [doubted(world, "which_picture", NONE_OF_THEM, pictures=pictures, thing=" ".join(pair))])


def _which_clip(world: World) -> Sample:
    """Ask in which of two clips a thing, which both show, has an action that it has in neither."""
    asked, *others = world.distinct(tuple(VERBS), 2)
    (pair,) = world.pairs(1)
    first = filmed(world, world.one((*others, "stays")), pair)
    clips = [first, filmed(world, "stays", pair, video_fps=first.video_fps)]
    turn = doubted(world, "which_clip", NEITHER, name=" ".join(pair), verb=VERBS[asked])
    return Sample([clip.clip for clip in clips], [turn], first.video_fps)


DOUBTS: dict[str, Task] = {
    "compare": _compare,
    "difference": _difference,
    "which_picture": _which_picture,
    "which_clip": _which_clip,
}
TASKS: dict[str, Task] = {task.__name__: task for task in (compare, difference, which_picture, which_clip, matching)}
