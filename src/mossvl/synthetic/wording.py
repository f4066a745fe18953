"""Samples, and the wording of questions and answers.

The wording of a question determines the form of its answer: each wording has one form, a sentence or bare words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from mossvl.synthetic.scene import Clip, Scene, Thing
from mossvl.synthetic.world import World

EDGE = 0.05
"""Least distance of a thing from a border, or from another thing, for words to name the side."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    task: str
    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """Media, and the questions about them.

    Args:
        media: pictures and clips, in order. Questions hold a placeholder for each, or none: then all media precede the
            first question.
        turns: questions and answers of one conversation.
        video_fps: sampled frames per second of each clip.
    """

    media: Sequence[Scene | Clip]
    turns: Sequence[Exchange]
    video_fps: float = 1.0


Task = Callable[[World], Sample]
Shown = TypeVar("Shown")


def asked(
    world: World, show: Callable[[World], Shown], ask: Callable[[World, Shown], Exchange | None]
) -> tuple[Shown, Exchange]:
    """Draw media until `ask` has a question about them; return both."""
    while True:
        shown = show(world)
        exchange = ask(world, shown)
        if exchange is not None:
            return shown, exchange


def phrased(world: World, task: str, wordings: Sequence[tuple[str, str]], **words: str) -> Exchange:
    """Fill `words` into a random (question, answer) wording. An answer that ends in a full stop is capitalised."""
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
    """Join names with articles, commas and "and"."""
    return joined([with_article(name) for name in names])


def joined(names: Sequence[str]) -> str:
    """Join names with commas and "and"; "nothing" without names."""
    *first, last = names or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def from_left(things: Sequence[Thing]) -> list[Thing] | None:
    """Sort things from left to right; None if two are too close to tell."""
    ordered = sorted(things, key=lambda thing: thing.x)
    if any(after.x - before.x < EDGE for before, after in pairwise(ordered)):
        return None
    return ordered


def seconds(time: float) -> str:
    """Format a time like the timestamps of a clip's prompt."""
    return f"{time:.1f} seconds"
