"""Conversations: several questions about the same picture or clip, so that one encoding trains several answers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from mossvl.synthetic import clips, doubts, pictures
from mossvl.synthetic.events import cast, film
from mossvl.synthetic.scene import COLOURS, Scene
from mossvl.synthetic.shapes import KINDS
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.wording import Exchange, Sample, Shown, Task
from mossvl.synthetic.world import World

TURNS = 2, 6
DESCRIBED = 0.4
"""Probability that a description is the first answer rather than the last."""
ACTIONS = ("stays", "appears", "vanishes", "visits", "blinks", "moves", "turns", "recolours", "collides")
_THING = rf"(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(KINDS)})\b"
_NAME, _THE_NAME = re.compile(rf"\b(?:{_THING}|text [A-Z0-9]+)"), re.compile(rf"\bthe {_THING}")


def conversation(world: World) -> Sample:
    """Return a conversation about a picture or a clip."""
    return world.one((about_picture, about_clip))(world)


def about_picture(world: World) -> Sample:
    """Return a conversation about a picture."""
    scene, turns = _several(world, _picture, pictures.QUESTIONS, doubts.PICTURES)
    return Sample([scene], turns)


def about_clip(world: World) -> Sample:
    """Return a conversation about a clip."""
    clip, turns = _several(world, _clip, clips.QUESTIONS, doubts.CLIPS)
    return Sample([clip.clip], turns, clip.video_fps)


def _picture(world: World) -> Scene:
    if world.chance(0.15):
        return pictures.written(world)
    if world.chance(0.15):
        return pictures.many(world)[0]
    count = world.count(1, 4)
    return world.scene(count, world.count(1, count))


def _clip(world: World) -> Watched:
    """Return a clip for a random question, or a clip of random actions."""
    if world.chance():
        return clips.story(world, world.one(clips.QUESTIONS))
    actions = world.distinct(ACTIONS, world.count(2, 3))
    return film(world, actions, world.pairs(cast(actions), cast(actions)))


def _several(
    world: World,
    show: Callable[[World], Shown],
    questions: Sequence[Callable[[World, Shown], Exchange | None]],
    doubts: Mapping[str, Callable[[World, Shown], Exchange | None]],
) -> tuple[Shown, list[Exchange]]:
    """Return a medium and distinct questions about it in random order, with pronouns for things just named."""
    count = world.count(*TURNS)
    while True:
        shown = show(world)
        turns: dict[tuple[str, ...], Exchange] = {}
        for ask in 2 * world.distinct(questions, len(questions)):
            doubt = doubts.get(ask.__name__) if world.edition.doubted and world.chance(world.edition.doubted) else None
            exchange = (doubt or ask)(world, shown)
            if exchange is not None:
                turns.setdefault((exchange.task, *_NAME.findall(exchange.question)), exchange)
            if len(turns) == count:
                break
        if len(turns) >= TURNS[0]:
            # A description gives other answers away: put it before all other turns, or after all.
            first = world.chance(DESCRIBED)
            ordered = sorted(turns.values(), key=lambda turn: turn.task.startswith("describe") != first)
            return shown, [ordered[0], *(_referring(*pair) for pair in pairwise(ordered))]


def _referring(before: Exchange, turn: Exchange) -> Exchange:
    """Replace the thing that a question names by "it", if the turn before names the same thing and no other."""
    named = set(_NAME.findall(f"{before.question} {before.answer}"))
    if len(named) != 1 or named != set(_NAME.findall(turn.question)):
        return turn
    return replace(turn, question=_THE_NAME.sub("it", turn.question))


TASKS: dict[str, Task] = {task.__name__: task for task in (conversation, about_picture, about_clip)}
