"""Samples, and the wording of questions and answers.

`wordings.toml` has the wordings. The wording of a question determines the form of its answer: each wording has one
form, a sentence or bare words.
"""

import tomllib
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple, TypeVar

from mossvl.synthetic.scene import Clip, Scene, Thing
from mossvl.synthetic.world import Pair, Split, World

EDGE = 0.05
"""Least distance of a thing from a border, or from another thing, for words to name the side."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    Args:
        also: the answers of other wordings of the question, which say the same in another form.
    """

    task: str
    question: str
    answer: str
    also: tuple[str, ...] = ()


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


class Wording(NamedTuple):
    """A question and the form of its answer, with the words that each of them needs."""

    question: str
    answer: str
    asked: frozenset[str]
    told: frozenset[str]


class _Words(Formatter):
    """Fills in words; {word:a} with an article, {word:s} in the plural."""

    def format_field(self, value: Any, format_spec: str) -> str:
        forms: dict[str, Callable[[str], str]] = {"a": with_article, "s": plural, "": str}
        return forms[format_spec](value)


_filled = _Words().format


@cache
def wordings(table: str, split: str) -> tuple[Wording, ...]:
    """Return the wordings of a table of `wordings.toml`.

    Args:
        table: a task, or a task and a part of it.
        split: "first" for those of the first edition; "more" for those that later editions train with; "test" for
            those that only their other splits use.
    """
    given = _tables()[table]
    pairs = [(question, answer) for question, answer in given["first"]] if split != "test" else []
    if split != "first":
        pairs += [(question, answer) for answer, questions in given[split] for question in questions]
    return tuple(Wording(*pair, *map(_fields, pair)) for pair in pairs)


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("wordings.toml").read_text())


def _fields(text: str) -> frozenset[str]:
    return frozenset(field for _, field, _, _ in Formatter().parse(text) if field)


def _fitting(world: World, table: str, words: Set[str]) -> list[Wording]:
    """Return the wordings of a world's edition and split whose question's words are given."""
    split = "first" if not world.edition.paraphrased else "more" if world.split == Split.TRAIN else "test"
    return [wording for wording in wordings(table, split) if wording.asked <= words]


def exchange(world: World, table: str, also: Sequence[str] = (), **words: str) -> Exchange:
    """Fill words into a random wording of a table.

    Args:
        also: forms of right answers beside those of wordings that tell the same words.
    """
    fitting = [wording for wording in _fitting(world, table, words.keys()) if wording.told <= words.keys()]
    chosen = world.one(fitting)
    known = [one for split in ("more", "test") if split in _tables()[table] for one in wordings(table, split)]
    others = [one.answer for one in known if one.told & chosen.told and one.told <= words.keys()]
    forms = dict.fromkeys([chosen.answer, *others, *also])
    answer, *equal = (sentence(_filled(form, **words)) for form in forms)
    return Exchange(table.split()[0], sentence(_filled(chosen.question, **words), "?"), answer, tuple(equal))


def doubted(world: World, table: str, answer: str, **words: str) -> Exchange:
    """Fill words into a random question of a table, to which no wording has an answer, but `answer`."""
    chosen = world.one(_fitting(world, table, words.keys()))
    return Exchange(table.split()[0], sentence(_filled(chosen.question, **words), "?"), answer)


def sentence(text: str, marks: str = ".") -> str:
    """Capitalise a text that ends in one of the marks."""
    return text[0].upper() + text[1:] if text[-1] in marks else text


def name(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"


def full_name(thing: Thing) -> str:
    """Return a thing's size, where it is clearly small or large, its texture, colour and kind."""
    texture = "" if thing.texture == "plain" else thing.texture
    return " ".join(word for word in (thing.called, texture, name(thing)) if word)


def short_name(world: World, pair: Pair, others: Collection[Pair]) -> str:
    """Return the name by which a question calls a thing: in later editions, sometimes its kind or colour alone.

    Args:
        others: the pairs of all other things, of which none may fit the short name.
    """
    colour, kind = pair
    if world.edition.short and world.chance(world.edition.short):
        if all(other[1] != kind for other in others):
            return kind
        if all(other[0] != colour for other in others):
            return f"{colour} thing"
    return f"{colour} {kind}"


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


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
