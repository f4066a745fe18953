"""How people type: a question in capitals, without its mark, with two spaces, with a greeting, and so on."""

from collections.abc import Callable
from dataclasses import replace

from mossvl.processing.prompt import PLACEHOLDER
from mossvl.synthetic.wording import Sample
from mossvl.synthetic.world import World

GREETINGS = ("Hi!", "Hello!", "Hey,", "Hi there,", "Good morning!", "Please:", "Excuse me,", "OK,", "Question:")
THANKS = ("Thanks!", "Thank you.", "Please.", "Thanks in advance!", "Please be brief.", "Thx", "I need to know.")


def greeted(world: World, question: str) -> str:
    before, after = world.one(GREETINGS), world.one(THANKS)
    return world.one((f"{before} {question}", f"{question} {after}", f"{before} {question} {after}"))


def spaced(world: World, question: str) -> str:
    """Double some or all spaces, or add some at the ends."""
    if world.chance(0.2):
        return f" {question} "
    often = world.one((0.2, 1.0))
    return "".join("  " if letter == " " and world.chance(often) else letter for letter in question)


STYLES: tuple[Callable[[World, str], str], ...] = (
    greeted,
    spaced,
    lambda world, question: question.lower(),
    lambda world, question: question.upper(),
    lambda world, question: question[0].lower() + question[1:],
    lambda world, question: question.rstrip("?."),
    lambda world, question: question + world.one(("?", "!", "..", " ?")),
)


def styled(world: World, sample: Sample) -> Sample:
    """Return a sample of which some questions are typed in one or two of the styles."""
    return replace(sample, turns=[replace(turn, question=typed(world, turn.question)) for turn in sample.turns])


def typed(world: World, question: str) -> str:
    """Return a question as it is or, as often as the edition says, typed in one or two of the styles."""
    if world.chance(world.edition.styled):
        for style in world.distinct(STYLES, world.count(1, 2)):
            question = _around_media(world, style, question)
    return question


def _around_media(world: World, style: Callable[[World, str], str], question: str) -> str:
    """Apply a style to what follows the media of a question."""
    *_, last = [0, *(found.end() for found in PLACEHOLDER.finditer(question))]
    before, text = question[:last], question[last:].strip()
    return f"{before} {style(world, text)}" if before else style(world, text)
