"""Questions about several pictures and clips together: one function for each task."""

from collections.abc import Sequence

from mossvl.processing.prompt import IMAGE, VIDEO
from mossvl.synthetic.events import Timing, film
from mossvl.synthetic.scene import Scene, Thing
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.wording import Sample, Task, phrased, seconds, with_article
from mossvl.synthetic.world import Pair, World

PLACES = ("first", "second")


def picture(world: World, pairs: Sequence[Pair]) -> Scene:
    """Return a scene of things with these colours and kinds."""
    return world.arranged([world.thing(*pair) for pair in pairs])


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
    wordings = [
        ("Which picture shows {thing}?", "the {place} picture."),
        ("In which of the two pictures do you see {thing}?", "in the {place} picture."),
        ("Is there {thing} in the first or in the second picture?", "{place}"),
    ]
    turn = phrased(world, "compare", wordings, thing=with_article(" ".join(pair)), place=PLACES[number])
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
    other = Thing(after[1], after[0], first.size, first.texture, first.x, first.y, shade=first.shade)
    background = world.background([*(colour for colour, _ in pairs), after[0]])
    scenes = [Scene([thing, *others], background) for thing in (first, other)]
    colours = "the {same} is {one} in the first picture and {other} in the second."
    kinds = "the {same} thing is {one} in the first picture and {other} in the second."
    answer = kinds if changed else colours
    wordings = [("What is the difference?", answer), ("What is different in the second picture?", answer)]
    one, two = (with_article(pair[1]) if changed else pair[0] for pair in (before, after))
    return Sample(scenes, [phrased(world, "difference", wordings, same=same, one=one, other=two)])


def which_picture(world: World) -> Sample:
    """Ask which of three or four numbered pictures shows a thing."""
    (pair,) = world.pairs(1)
    count = world.count(3, 4)
    number = world.count(1, count)
    scenes = [among(world, pair if i == number else None, pair, most=1) for i in range(1, count + 1)]
    pictures = " ".join(f"Picture {i}: {IMAGE}" for i in range(1, count + 1))
    wordings = [
        ("{pictures} In which picture is there {thing}?", "picture {number}"),
        ("{pictures} Which picture shows {thing}?", "picture {number} shows {thing}."),
    ]
    words = {"pictures": pictures, "thing": with_article(" ".join(pair)), "number": str(number)}
    return Sample(scenes, [phrased(world, "which_picture", wordings, **words)])


def which_clip(world: World) -> Sample:
    """Ask in which of two clips a thing, which both show, has an action."""
    verbs = {"moves": "move", "vanishes": "vanish", "appears": "appear", "recolours": "change its colour"}
    action, other = world.distinct(tuple(verbs), 2)
    if world.chance():
        other = "stays"
    (pair,) = world.pairs(1)
    first = filmed(world, action, pair)
    clips = [first, filmed(world, other, pair, video_fps=first.video_fps)]
    number = world.count(0, 1)
    wordings = [
        ("In which clip does the {name} {verb}?", "in the {place} clip."),
        ("Does the {name} {verb} in the first or in the second clip?", "{place}"),
    ]
    words = {"name": " ".join(pair), "verb": verbs[action], "place": PLACES[number]}
    shown = [clip.clip for clip in (clips if number == 0 else clips[::-1])]
    return Sample(shown, [phrased(world, "which_clip", wordings, **words)], first.video_fps)


def matching(world: World) -> Sample:
    """Ask whether a clip shows the thing of a picture, and when the thing appears."""
    asked, other = world.pairs(2, subjects=2)
    there = world.chance()
    shown = asked if there else world.one((other, world.alike(asked, [asked])))
    clip = filmed(world, "appears", shown, asked)
    media = f"Here is a picture: {IMAGE} And here is a clip: {VIDEO}"
    wordings = [
        ("{media} Is the thing of the picture in the clip?", "{answer}"),
        ("{media} Does the clip show the thing of the picture?", "{answer}"),
    ]
    turns = [phrased(world, "matching", wordings, media=media, answer="yes" if there else "no")]
    if there:
        time = seconds(clip.times[clip.things[0].appears[0]])
        follow = [("When does it appear?", "{time}"), ("At what time does it appear?", "at {time}.")]
        turns.append(phrased(world, "matching", follow, time=time))
    return Sample([picture(world, [asked]), clip.clip], turns, clip.video_fps)


TASKS: dict[str, Task] = {task.__name__: task for task in (compare, difference, which_picture, which_clip, matching)}
