"""Samples, and the words of their questions and answers.

The question decides the form of its answer: where one has several wordings, each has one form, a sentence or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from mossvl.synthetic.scene import Clip, Scene, Thing
from mossvl.synthetic.world import World

EDGE = 0.05
"""How far from a border, or from another thing, a place must be for words to tell on which side it is."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    task: str
    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """What is shown, and the questions about it.

    Args:
        media: pictures and clips, in this order. Questions may hold a placeholder for each; where none does, all media
            stand before the first question.
        turns: questions, the later ones about the same media.
        video_fps: how many frames of a second are looked at, of each clip.
    """

    media: Sequence[Scene | Clip]
    turns: Sequence[Exchange]
    video_fps: float = 1.0


Task = Callable[[World], Sample]
Shown = TypeVar("Shown")


def asked(
    world: World, show: Callable[[World], Shown], ask: Callable[[World, Shown], Exchange | None]
) -> tuple[Shown, Exchange]:
    """Something to show that a question can be asked about, and the question."""
    while True:
        shown = show(world)
        exchange = ask(world, shown)
        if exchange is not None:
            return shown, exchange


def phrased(world: World, task: str, wordings: Sequence[tuple[str, str]], **words: str) -> Exchange:
    """One of several (question, answer), each with words in braces. Sentences begin with a capital letter."""
    question, answer = (text.format(**words) for text in world.one(wordings))
    if answer.endswith("."):
        answer = answer[0].upper() + answer[1:]
    return Exchange(task, question, answer)


def name(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"


def full_name(thing: Thing) -> str:
    texture = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"{thing.size} {texture}{name(thing)}"


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def listed(names: Sequence[str]) -> str:
    """With articles, commas and "and"."""
    return joined([with_article(one) for one in names])


def joined(names: Sequence[str]) -> str:
    """With commas and "and"."""
    *first, last = names or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def from_left(things: Sequence[Thing]) -> list[Thing] | None:
    """In the order from left to right; None if that cannot be told."""
    ordered = sorted(things, key=lambda thing: thing.x)
    if any(after.x - before.x < EDGE for before, after in pairwise(ordered)):
        return None
    return ordered


def seconds(time: float) -> str:
    """A time as the prompt of a clip has it."""
    return f"{time:.1f} seconds"
