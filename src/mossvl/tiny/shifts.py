"""How mossvl-tiny does on what a newcomer draws, asks and shows: a line for each shift away from its own world.

`python -m mossvl.tiny.shifts` draws pictures and clips with `sketches`, asks about them through the engine, from files,
and prints a table: right answers with their interval, and what is to be reached. An answer is right if it is the
expected one, or the same in the form of another wording.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from math import sqrt
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.errors import OptionError
from mossvl.llm import MossVL
from mossvl.options import SamplingParams
from mossvl.synthetic import clips, doubts, lettering, pictures, unknown
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.events import Timing
from mossvl.synthetic.files import write_frames
from mossvl.synthetic.palettes import PALETTES
from mossvl.synthetic.scene import SIZES, Clip, Look, Scene, Thing
from mossvl.synthetic.wording import Exchange, Sample, Task, asked, doubted
from mossvl.synthetic.world import Split, World
from mossvl.tiny.sketches import Style, sketch
from mossvl.training.synthetic import messages_of

TASKS = ("what", "colour", "where", "there", "count", "at")
"""Questions about pictures, in equal parts."""
RUNAWAY = 300
"""Characters of an answer that has no end; the longest right ones are descriptions, about a third shorter."""
DOUBTS = ("There is no ", "There is nothing", "Nothing is written", "It does not ", unknown.KNOWS)
"""Beginnings of answers that say what is missing, or not known."""
SIDE = 256
"""Pixels of the shorter side of files, where no other size is measured."""


@dataclass(frozen=True)
class Shift:
    """One line of the table.

    Args:
        name: what differs.
        goal: share of right answers to be reached.
        make: returns media and a question.
        style: of the drawings.
        edition: of the world; only its wordings and clips matter.
        typed: changes the text of a question.
        aspect: width over height.
        pixels: height and width at which the model sees the media; None for its processor's choice.
        doubtful: whether the right answer is that something is missing or not known.
    """

    name: str
    goal: float
    make: Task
    style: Style = field(default_factory=Style)
    edition: Edition = FIRST
    typed: Callable[[str], str] = str
    aspect: float = 4 / 3
    pixels: tuple[int, int] | None = None
    doubtful: bool = False


# --- media and questions -----------------------------------------------------------------------------------------


def about_picture(world: World, tasks: Sequence[str] = TASKS, radii: tuple[float, float] | None = None) -> Sample:
    """Ask about a picture of one to four things, as few as have room.

    Args:
        radii: smallest and largest radius; None for the two named sizes.
    """
    task, most = world.one(tasks), 2 if radii and radii[1] > 0.2 else 4

    def show(world: World) -> Scene:
        least = 2 if task == "at" else 1
        pairs = world.pairs(world.count(least, most))
        radius = [world.random.uniform(*radii) if radii else world.one(tuple(SIZES.values())) for _ in pairs]
        return world.arranged([Thing(kind, colour, size) for (colour, kind), size in zip(pairs, radius, strict=True)])

    scene, turn = asked(world, show, getattr(pictures, task))
    return Sample([scene], [turn])


def counted(world: World) -> Sample:
    """Ask how many things there are in all."""
    things = [Thing(kind, colour, 0.09) for colour, kind in world.pairs(world.count(1, 7))]
    scene = world.arranged(things)
    return Sample([scene], asked(world, lambda world: scene, pictures.count_all)[1:])


def read(case: Callable[[str], str], world: World) -> Sample:
    """Ask for a word in an ordinary font."""
    while not lettering.LONGEST - 4 >= len(word := case(world.text())) > 1 or word.isdigit():
        pass
    thing = Thing("word", world.one(("black", "blue", "red")), 0.15, word=word, look=Look(font=lettering.fonts()[0]))
    scene, turn = asked(world, lambda world: world.arranged([thing]), pictures.read)
    return Sample([scene], [turn])


CLIP_TASKS = ("when", "direction", "times", "there_clip", "how_long")


def about_clip(world: World, tasks: Sequence[str] = CLIP_TASKS) -> Sample:
    """Ask about a clip; long ones are seen at two frames a second."""
    ask = getattr(clips, world.one(tasks))
    long = world.edition.frames[0] > 16
    watched, turn = asked(world, lambda world: clips.story(world, ask, Timing(world, 2.0) if long else None), ask)
    return Sample([watched.clip], [turn], watched.video_fps)


def doubtful_picture(tables: Sequence[str], world: World) -> Sample:
    """Ask about what a picture lacks."""

    def show(world: World) -> Scene:
        return world.arranged([Thing(kind, colour, 0.12) for colour, kind in world.pairs(world.count(1, 3))])

    scene, turn = asked(world, show, doubts.PICTURES[world.one(tables)])
    return Sample([scene], [turn])


def doubtful_clip(table: str, world: World) -> Sample:
    """Ask for what does not happen to a thing of a clip."""
    watched, turn = asked(world, partial(clips.story, ask=clips.doing), getattr(doubts, table))
    return Sample([watched.clip], [turn], watched.video_fps)


def unknown_noun(world: World) -> Sample:
    """Ask about what is no shape."""
    scene = about_picture(world, ["there"]).media
    return Sample(scene, [unknown.about(world)])


def photograph(world: World) -> Sample:
    """Ask what is in a photograph."""
    return Sample([Scene([])], [doubted(world, "describe", unknown.KNOWS)])


PARAPHRASED = replace(FIRST, paraphrased=True)
SHIFTS: tuple[Shift, ...] = (
    Shift("none: its own wordings", 0.99, about_picture),
    Shift("paraphrases", 0.95, about_picture, edition=PARAPHRASED),
    Shift("paraphrases of when", 0.95, partial(about_clip, tasks=["when"]), edition=PARAPHRASED),
    Shift("names without a colour", 0.95, partial(about_picture, tasks=["where"]), edition=replace(FIRST, short=1.0)),
    Shift("lower case, no mark", 0.98, about_picture, typed=lambda text: text.lower().rstrip("?.")),
    Shift("upper case", 0.98, about_picture, typed=str.upper),
    Shift("doubled spaces", 0.98, about_picture, typed=lambda text: text.replace(" ", "  ")),
    Shift("Hi! … Thanks!", 0.98, about_picture, typed=lambda text: f"Hi! {text} Thanks!"),
    Shift("outlines", 0.95, about_picture, Style(stroke="outline")),
    Shift("thick black borders", 0.95, about_picture, Style(stroke="border")),
    Shift("an ordinary font, capitals", 0.95, partial(read, str.upper)),
    Shift("an ordinary font, small letters", 0.95, partial(read, str.lower)),
    Shift("turned by 15–30°", 0.95, about_picture, Style(turned=(15, 30))),
    Shift("radius 0.11–0.16", 0.95, partial(about_picture, radii=(0.11, 0.16))),
    Shift("radius 0.22–0.30", 0.95, partial(about_picture, tasks=["what", "colour"], radii=(0.22, 0.3))),
    Shift("radius 0.05–0.07", 0.90, partial(about_picture, radii=(0.05, 0.07))),
    Shift("stretched", 0.95, about_picture, Style(stretch=1.35)),
    Shift("other stars, hearts, moons", 0.97, partial(about_picture, tasks=["what", "colour"]), Style(other=True)),
    Shift("palette of CSS", 0.97, about_picture, Style(PALETTES["css"])),
    Shift("palette of Paint", 0.97, about_picture, Style(PALETTES["paint"])),
    Shift("vivid gradients", 0.93, about_picture, Style(ground="gradient")),
    Shift("noise", 0.93, about_picture, Style(ground="noise")),
    Shift("a photograph behind", 0.85, about_picture, Style(ground="photograph")),
    *(
        Shift(name, 0.95, about_picture, aspect=aspect)
        for name, aspect in (("2:1", 2.0), ("21:9", 21 / 9), ("3:1", 3.0), ("1:3", 1 / 3))
    ),
    *(
        Shift(f"seen at {width} × {height}", 0.97, about_picture, aspect=width / height, pixels=(height, width))
        for height, width in ((256, 256), (320, 320), (480, 640))
    ),
    Shift("40–60 frames", 0.97, about_clip, edition=replace(FIRST, frames=(40, 60))),
    Shift(
        "a part that begins later",
        0.98,
        partial(about_clip, tasks=(*CLIP_TASKS, "describe_clip")),
        edition=replace(FIRST, begun=1.0),
    ),
    Shift("how many in all", 0.97, counted, edition=PARAPHRASED),
    Shift("an absent thing", 0.95, partial(doubtful_picture, ("where", "looks", "colour")), doubtful=True),
    Shift("nothing is written", 0.95, partial(doubtful_picture, ("read",)), doubtful=True),
    Shift("nothing moves", 0.95, partial(doubtful_clip, "direction"), doubtful=True),
    Shift("nothing changes", 0.95, partial(doubtful_clip, "becomes"), doubtful=True),
    Shift("an unknown noun", 0.98, unknown_noun, edition=PARAPHRASED, doubtful=True),
    Shift("a photograph", 0.98, photograph, Style(ground="photograph"), doubtful=True),
)

# --- asking ------------------------------------------------------------------------------------------------------


def written(shift: Shift, seed: int | str, folder: Path) -> tuple[dict[str, Any], Exchange]:
    """Write the media of a question; return the query, as `MossVL.generate` takes it, and the exchange."""
    world = World(Split.TEST, f"{shift.name} {seed}", shift.aspect, shift.edition)
    sample = shift.make(world)
    height, width = shift.pixels or (
        round(SIDE * max(1.0, 1 / shift.aspect) / 2) * 2,
        round(SIDE * max(1.0, shift.aspect) / 2) * 2,
    )
    (turn,) = sample.turns
    turn = replace(turn, question=shift.typed(turn.question))

    def file(medium: Scene | Clip) -> str:
        path = folder / f"{SHIFTS.index(shift)}-{seed}{'.mp4' if isinstance(medium, Clip) else '.png'}"
        if isinstance(medium, Clip):
            write_frames(_frames(medium, shift.style, height, width, seed), medium.rate, path, height, width)
        else:
            sketch(medium, shift.style, height, width, seed).save(path)
        return str(path)

    messages = messages_of(replace(sample, turns=[turn]), file)[:1]
    options: dict[str, Any] = {"video_fps": sample.video_fps}
    if shift.pixels:
        options["max_pixels"] = height * width
    return {"messages": messages, "media_kwargs": options}, turn


def _frames(clip: Clip, style: Style, height: int, width: int, seed: int | str) -> Iterator[np.ndarray[Any, Any]]:
    """Draw the frames of a clip, equal ones once."""
    scenes = ((tuple(scene.things), scene) for scene in (clip.at(n / clip.rate) for n in range(clip.num_frames)))
    for _, same in groupby(scenes, key=lambda one: one[0]):
        first, *others = (scene for _, scene in same)
        drawn = np.asarray(sketch(first, style, height, width, seed))
        yield from (drawn for _ in range(1 + len(others)))


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share, by default for 95 %."""
    share, spread = right / count, z * z / count
    centre, half = share + spread / 2, z * sqrt((share * (1 - share) + spread / 4) / count)
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def figures_of(llm: MossVL, shift: Shift, each: int, folder: Path) -> dict[str, Any]:
    """Ask `each` questions of a shift: how many answers are right, doubt, or have no end; and some wrong ones."""
    queries, turns = zip(*(written(shift, seed, folder) for seed in range(each)), strict=True)
    params = SamplingParams(max_new_tokens=RUNAWAY)
    answers = [result.text for result in llm.generate(list(queries), params, raise_on_error=True)]
    right = [answer in (turn.answer, *turn.also) for answer, turn in zip(answers, turns, strict=True)]
    wrong = [(t.question, a, t.answer) for a, t, good in zip(answers, turns, right, strict=True) if not good]
    return {
        "right": sum(right),
        "answers": each,
        "doubting": sum(answer.startswith(DOUBTS) for answer in answers),
        "runaways": sum(len(answer) > RUNAWAY for answer in answers),
        "wrong": Random(0).sample(wrong, min(5, len(wrong))),
    }


def table(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| shift | questions | right | interval | to reach |"
    yield "|---|---:|---:|---:|---:|"
    for shift in (shift for shift in SHIFTS if shift.name in figures):
        one = figures[shift.name]
        low, high = interval(one["right"], one["answers"])
        shares = f"{one['right'] / one['answers']:.1%} | {low:.1%} … {high:.1%} | {shift.goal:.0%}".replace("%", " %")
        yield f"| {shift.name} | {one['answers']} | {shares} |"
    sure = [figures[shift.name] for shift in SHIFTS if shift.name in figures and not shift.doubtful]
    for name, some, limit in (("doubt where there is something", sure, "1 %"), ("no end", figures.values(), "0")):
        number, count = (
            sum(one[key] for one in some) for key in ("doubting" if some is sure else "runaways", "answers")
        )
        if count:
            low, high = interval(number, count)
            shares = f"{number / count:.1%} | {low:.1%} … {high:.1%}".replace("%", " %")
            yield f"| {name} (at most) | {count} | {shares} | {limit} |"


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to evaluate.")] = CHECKPOINT,
    each: Annotated[int, typer.Option(help="Questions of each shift.")] = 100,
    only: Annotated[str, typer.Option(help="Only shifts whose name has this text.")] = "",
    dtype: Annotated[str | None, typer.Option(help="Of the weights, such as bfloat16.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Measure mossvl-tiny outside its own world."""
    chosen = [shift for shift in SHIFTS if only in shift.name]
    if not chosen:
        raise OptionError(f"no shift has {only!r} in its name; there are {', '.join(shift.name for shift in SHIFTS)}")
    figures: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder, MossVL(checkpoint, dtype=dtype) as llm:
        for shift in chosen:
            figures[shift.name] = figures_of(llm, shift, each, Path(folder))
            print(f"{shift.name}: {figures[shift.name]['right']} of {each}", file=sys.stderr)
    print(*table(figures), sep="\n")
    if output:
        output.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
