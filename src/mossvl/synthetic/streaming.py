"""Live streams of the procedural world: what a user says, and what is to be said at which frame.

A function for each task draws a stream. What is said depends on the frames so far, and on nothing else; at frames
without a reply, the assistant is silent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

from mossvl.synthetic.events import Watching, cast, film
from mossvl.synthetic.pictures import NUMBERS
from mossvl.synthetic.scene import Clip
from mossvl.synthetic.styles import typed
from mossvl.synthetic.watching import Watched
from mossvl.synthetic.wording import from_left, full_name, listed, name, with_article
from mossvl.synthetic.world import World

FRAMES = 6, 20
"""Range of the number of frames."""
COMING = ("appears", "vanishes", "visits", "stays")
CHANGING = ("appears", "vanishes", "visits", "recolours", "stays")
BESIDE = ("appears", "vanishes", "visits", "recolours", "moves", "turns", "stays")
"""Actions of things that nobody asks about."""
Made = TypeVar("Made")


class Line(NamedTuple):
    """Something that is said.

    Attributes:
        frame: of a prompt, the frame before which the user says it; of a reply, the frame at which it begins.
    """

    frame: int
    text: str


@dataclass(frozen=True)
class LiveSample:
    """A stream, and what is said.

    Attributes:
        times: seconds of the frames, which are those of the clip at these times.
        prompts: the first is said before the first frame.
        replies: ascending; a later prompt cuts a reply that is not finished.
    """

    task: str
    clip: Clip
    times: tuple[float, ...]
    prompts: Sequence[Line]
    replies: Sequence[Line]


def _until(make: Callable[[], Made | None]) -> Made:
    """Draw until there is a result."""
    while (made := make()) is None:
        pass
    return made


def _watched(world: World, actions: Sequence[Sequence[str]], subjects: int) -> Watched:
    """A stream of things with actions, one of each given choice; the first `subjects` things are of the split."""
    chosen = [world.one(choices) for choices in actions]
    return film(world, chosen, world.pairs(cast(chosen), subjects), Watching(world, world.count(*FRAMES)))


def _beside(world: World, most: int = 2) -> list[Sequence[str]]:
    return [BESIDE] * world.count(1, most)


def _sample(task: str, clip: Watched, prompts: Sequence[Line], replies: Sequence[Line]) -> LiveSample:
    return LiveSample(task, clip.clip, tuple(clip.times), prompts, sorted(replies))


# --- tasks -------------------------------------------------------------------------------------------------------


def alert(world: World) -> LiveSample:
    """Say when a thing appears, each time."""

    def made() -> tuple[Watched, list[int], str] | None:
        clip = _watched(world, [("appears", "visits", "blinks"), *_beside(world)], 1)
        first = clip.things[0]
        return (clip, first.appears, first.name) if first.late and first.appears else None

    clip, frames, whom = _until(made)
    prompt, reply = _alert_wording(world, whom)
    return _sample("alert", clip, [Line(0, prompt)], [Line(frame, reply) for frame in frames])


def _alert_wording(world: World, whom: str) -> tuple[str, str]:
    a = with_article(whom)
    wordings = [
        (f"Tell me when {a} appears.", f"{a.capitalize()} appears."),
        (f"Let me know when you see {a}.", f"I see {a}."),
        (f"Say when the {whom} comes.", f"The {whom} comes."),
        (f'Say "now" when {a} appears.', "Now."),
    ]
    return world.one(wordings)


def silent(world: World) -> LiveSample:
    """Stay silent: the thing that the user waits for never comes, but one that resembles it may."""
    clip = _watched(world, [CHANGING, *_beside(world)], 1)
    shown = clip.things[0].pair
    prompt, _ = _alert_wording(world, " ".join(world.alike(shown, clip.shown)))
    return _sample("silent", clip, [Line(0, prompt)], [])


def count_aloud(world: World) -> LiveSample:
    """Count the things that appear, aloud."""

    def made() -> Watched | None:
        clip = _watched(world, [("appears", "visits")] * world.count(2, 5), 5)
        frames = [frame for seen in clip.things for frame in seen.appears]
        return clip if all(seen.late for seen in clip.things) and len({*frames}) == len(frames) else None

    clip = _until(made)
    frames = sorted(frame for seen in clip.things for frame in seen.appears)
    prompt, words = world.one(
        [
            ("Count the things that appear, aloud.", [f"{word.capitalize()}." for word in NUMBERS[1:]]),
            ("Count aloud, in figures, each thing that comes.", ["1", "2", "3", "4", "5"]),
            ("How many things have come? Say so each time.", [f"{word.capitalize()} so far." for word in NUMBERS[1:]]),
        ]
    )
    return _sample("count_aloud", clip, [Line(0, prompt)], list(map(Line, frames, words)))


def report(world: World) -> LiveSample:
    """Describe all changes."""
    clip = _watched(world, [CHANGING] * world.count(1, 3), 3)
    prompt = world.one(
        ["Tell me what changes.", "Describe every change when it happens.", "Report all that happens, as it happens."]
    )
    return _sample("report", clip, [Line(0, prompt)], _changes(clip))


def arrivals(world: World) -> LiveSample:
    """Say what appears, whatever it is, and nothing else."""
    clip = _watched(world, [("appears", "visits", "stays"), *[CHANGING] * world.count(0, 2)], 3)
    prompt = world.one(
        [
            "Say when something appears.",
            "Tell me when anything appears.",
            "Let me know when something new comes.",
            "Watch, and name each thing that appears.",
        ]
    )
    return _sample("arrivals", clip, [Line(0, prompt)], _changes(clip, ("appears",)))


def _changes(clip: Watched, verbs: Sequence[str] = ("appears", "vanishes", "changes its colour")) -> list[Line]:
    """For each frame with changes, sentences about them."""
    said: dict[int, list[str]] = {}
    for frame, whom, what, (seen, *_) in clip.events:
        if what not in verbs:
            continue
        if what == "changes its colour":
            what = f"becomes {seen.whenever[-1].colour}"
        elif what == "appears" and frame == seen.appears[0]:
            whom = with_article(seen.name)
        said.setdefault(frame, []).append(f"{whom[0].upper()}{whom[1:]} {what}.")
    return [Line(frame, " ".join(sentences)) for frame, sentences in said.items()]


def question(world: World) -> LiveSample:
    """Answer a question in the middle of another task, which goes on afterwards."""

    def made() -> LiveSample | None:
        base = world.one((alert, report, silent))(world)
        busy = {line.frame for line in base.replies}
        frame = world.count(2, len(base.times) - 1)
        asked = _now(world, base, frame)
        if asked is None or frame in busy:
            return None
        prompt, reply = asked
        prompts, replies = [*base.prompts, Line(frame, prompt)], sorted([*base.replies, Line(frame, reply)])
        return replace(base, task="question", prompts=prompts, replies=replies)

    return _until(made)


def _now(world: World, stream: LiveSample, frame: int) -> tuple[str, str] | None:
    """A question about what a frame shows, and its answer; None if the frame is not clear."""
    things = from_left(stream.clip.at(stream.times[frame]).things)
    if things is None:
        return None
    names, number = listed([name(thing) for thing in things]), len(things)
    are = f"there {'is one thing' if number == 1 else f'are {NUMBERS[number]} things'}."
    wordings = [
        ("What is there now?", f"{names[0].upper()}{names[1:]}."),
        ("What do you see now?", f"I see {names}."),
        ("How many things do you see now?", str(number)),
        ("How many things are there now?", f"Now {are}"),
    ]
    return world.one(wordings)


def interrupted(world: World) -> LiveSample:
    """Stop, or answer another question, when a long description is interrupted."""

    def made() -> LiveSample | None:
        clip = _watched(world, [("stays",)] * world.count(3, 5), 5)
        things = from_left(clip.at(0))
        if things is None:
            return None
        whole = "I see " + listed([full_name(thing) for thing in things])
        begin = world.count(0, 1)
        cut = begin + world.count(1, 2)
        left, right = name(things[0]), name(things[-1])
        wordings = [
            ("Stop.", ""),
            ("Be quiet.", ""),
            ("How many are there?", str(len(things))),
            ("What is on the left?", f"The {left}."),
            ("What is on the right?", f"The {right}."),
        ]
        second, reply = world.one(wordings)
        first = world.one(["Describe all that you see, in full.", "Name everything, with sizes and textures."])
        replies = [Line(begin, f"{whole}, from left to right."), *([Line(cut, reply)] if reply else [])]
        return _sample("interrupted", clip, [Line(0, first), Line(cut, second)], replies)

    return _until(made)


def _typed(task: Callable[[World], LiveSample], world: World) -> LiveSample:
    """Return a stream of a task, whose prompts are typed in the styles of the world's edition."""
    sample = task(world)
    if not world.edition.styled:
        return sample
    return replace(sample, prompts=[Line(frame, typed(world, text)) for frame, text in sample.prompts])


STREAMS: dict[str, Callable[[World], LiveSample]] = {
    task.__name__: partial(_typed, task)
    for task in (alert, silent, count_aloud, report, question, interrupted, arrivals)
}
