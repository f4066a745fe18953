"""Accuracy of mossvl-tiny on the test split, from real files, through the engine.

`python -m mossvl.tiny.evaluate` writes pictures and clips of the test split, asks questions about them, and prints a
table with a line for each task: accuracy, accuracy on black media ("blind"), and the share of the most frequent answer.
An answer is right if it equals the expected text; in the second edition, whose questions here have wordings that
training never uses, the forms of other wordings are right, too. Later turns follow the model's own answers.
"""

import json
import multiprocessing
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.evaluation import ExactAnswers, ask, tallied
from mossvl.llm import MossVL
from mossvl.options.checks import choice
from mossvl.progress import progress
from mossvl.synthetic.editions import EDITIONS, FIRST, Edition
from mossvl.synthetic.files import write_clip, write_picture
from mossvl.synthetic.scene import Background, Clip, Scene
from mossvl.synthetic.tasks import tasks_of
from mossvl.synthetic.world import Split, World
from mossvl.training.synthetic import messages_of

LARGER = 2
"""Height and width of files, relative to the model's input."""
BLACK = Background("plain", (0, 0, 0))


def write_conversation(
    folder: Path, split: Split, blind: bool, named: tuple[str, int], edition: Edition = FIRST
) -> ExactAnswers:
    """Write the files of one sample.

    Args:
        blind: write black media.
        named: task and number, which determine the sample.
        edition: of the world.
    """
    task, number = named
    height, width = (LARGER * side for side in edition.sizes[number % len(edition.sizes)])
    frames = edition.frames_of(height // LARGER, width // LARGER)
    sample = tasks_of(edition)[task](World(split, f"{task} {number}", width / height, edition, frames))
    count = iter(range(len(sample.media)))

    def file(medium: Scene | Clip) -> str:
        path = folder / f"{task}-{number}-{next(count)}{'.mp4' if isinstance(medium, Clip) else '.png'}"
        if isinstance(medium, Clip):
            write_clip(replace(medium, tracks=[], background=BLACK) if blind else medium, path, height, width)
        else:
            write_picture(Scene([], BLACK) if blind else medium, path, height, width)
        return str(path)

    messages = messages_of(sample, file)
    answers = [turn.answer for turn in sample.turns]
    questions = [message for message in messages if message["role"] == "user"]
    others = [turn.also for turn in sample.turns] if edition.paraphrased else ()
    return ExactAnswers(task, questions, answers, {"media_kwargs": {"video_fps": sample.video_fps}}, others)


def write_conversations(
    folder: Path, split: Split, each: int, blind: bool = False, edition: Edition = FIRST
) -> list[ExactAnswers]:
    """Write `each` samples of every task, in one process for each core."""
    folder.mkdir()
    named = [(task, number) for task in tasks_of(edition) for number in range(each)]
    write = partial(write_conversation, folder, split, blind, edition=edition)
    context = multiprocessing.get_context("forkserver")  # fork is unsafe with threads
    written = []
    with (
        ProcessPoolExecutor(mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        progress(len(named), 0) as advance,
    ):
        for conversation in pool.map(write, named, chunksize=8):
            written.append(conversation)
            advance()
    return written


def most_frequent(conversations: Sequence[ExactAnswers]) -> dict[str, float]:
    """Return the share of the most frequent answer of each task."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for conversation in conversations:
        answers[conversation.name].update(conversation.answers)
    return {task: counts.most_common(1)[0][1] / counts.total() for task, counts in answers.items()}


def table(figures: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| task | answers | right | blind | most frequent |"
    yield "|---|---:|---:|---:|---:|"
    for task, one in figures.items():
        shares = (f"{100 * one[name]:.1f} %" for name in ("right", "blind", "most frequent"))
        yield f"| {task} | {one['answers']:.0f} | {' | '.join(shares)} |"


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to evaluate.")] = CHECKPOINT,
    each: Annotated[int, typer.Option(help="Samples of each task.")] = 100,
    split: Annotated[Split, typer.Option(help="Split of pairs and words.")] = Split.TEST,
    edition: Annotated[str, typer.Option(help="Edition of the world: first or second.")] = "first",
    quantization: Annotated[
        str | None, typer.Option("--quantization", "-q", help="Quantize weights: fp8, int4 or nf4.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Measure the accuracy of mossvl-tiny."""
    with TemporaryDirectory() as folder:
        shown, black = Path(folder, "shown"), Path(folder, "black")
        print("drawing pictures and clips", file=sys.stderr)
        world = EDITIONS[choice("edition", edition, tuple(EDITIONS))]
        conversations = write_conversations(shown, split, each, edition=world)
        print("drawing black media", file=sys.stderr)
        blind = write_conversations(black, split, each, blind=True, edition=world)
        with MossVL(checkpoint, quantization=quantization) as llm:
            print("asking about pictures and clips", file=sys.stderr)
            right = tallied(ask(llm, conversations))
            print("asking about black media", file=sys.stderr)
            guessed = tallied(ask(llm, blind))
    likely = most_frequent(conversations)
    figures = {
        task: {
            "answers": right[task].answers,
            "right": right[task].mean,
            "blind": guessed[task].mean,
            "most frequent": likely[task],
        }
        for task in right
    }
    columns = {name: [one[name] for one in figures.values()] for name in next(iter(figures.values()))}
    figures["mean of tasks"] = {name: (sum if name == "answers" else mean)(column) for name, column in columns.items()}
    print(*table(figures), sep="\n")
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
