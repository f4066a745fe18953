"""How many answers are right on the test split: real files, asked through the engine.

`python -m mossvl.tiny.evaluate` writes pictures and clips of the test split, asks about them, and prints a table with a
line for each task: its share of right answers, the share where all pictures are black, and the share of the answer that
is right most often. An answer is right if it is the expected text; later turns follow on the model's own answers.
"""

import json
import multiprocessing
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.llm import MossVL
from mossvl.progress import progress
from mossvl.synthetic.files import write_clip, write_picture
from mossvl.synthetic.scene import Background, Clip, Scene
from mossvl.synthetic.tasks import TASKS
from mossvl.synthetic.world import Split, World
from mossvl.training.synthetic import SIZES, messages_of

LARGER = 2
"""Files have so many times the height and width that the model sees."""
BLACK = Background("plain", (0, 0, 0))


@dataclass(frozen=True)
class Conversation:
    """Questions about files.

    Attributes:
        questions: messages of the user, media in them as paths.
        answers: what is expected.
    """

    task: str
    questions: Sequence[dict[str, Any]]
    answers: Sequence[str]
    video_fps: float


def write_conversation(folder: Path, split: Split, blind: bool, named: tuple[str, int]) -> Conversation:
    """Draw one sample's files.

    Args:
        blind: draw black ones.
        named: task and number of the sample; the same ones give the same sample.
    """
    task, number = named
    height, width = (LARGER * side for side in SIZES[number % len(SIZES)])
    sample = TASKS[task](World(split, f"{task} {number}", width / height))
    count = iter(range(len(sample.media)))

    def file(medium: Scene | Clip) -> str:
        path = folder / f"{task}-{number}-{next(count)}{'.mp4' if isinstance(medium, Clip) else '.png'}"
        if isinstance(medium, Clip):
            write_clip(Clip([], medium.seconds, BLACK, medium.rate) if blind else medium, path, height, width)
        else:
            write_picture(Scene([], BLACK) if blind else medium, path, height, width)
        return str(path)

    messages = messages_of(sample, file)
    answers = [turn.answer for turn in sample.turns]
    return Conversation(task, [one for one in messages if one["role"] == "user"], answers, sample.video_fps)


def write_conversations(folder: Path, split: Split, each: int, blind: bool = False) -> list[Conversation]:
    """`each` samples of every task, written by as many processes as there are cores."""
    folder.mkdir()
    named = [(task, number) for task in TASKS for number in range(each)]
    context = multiprocessing.get_context("forkserver")  # this process may have threads
    written = []
    with (
        ProcessPoolExecutor(mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        progress(len(named), 0) as advance,
    ):
        for one in pool.map(partial(write_conversation, folder, split, blind), named, chunksize=8):
            written.append(one)
            advance()
    return written


def answered(llm: MossVL, conversations: Sequence[Conversation]) -> dict[str, list[bool]]:
    """Whether each answer of a task is right."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    said: list[list[dict[str, Any]]] = [[] for _ in conversations]
    for turn in range(max(len(one.questions) for one in conversations)):
        asked = [(one, said[i]) for i, one in enumerate(conversations) if turn < len(one.questions)]
        for one, messages in asked:
            messages.append(one.questions[turn])
        queries = [{"messages": messages, "media_kwargs": {"video_fps": one.video_fps}} for one, messages in asked]
        results = llm.generate(queries, raise_on_error=True)
        for (one, messages), result in zip(asked, results, strict=True):
            messages.append({"role": "assistant", "content": result.text})
            right[one.task].append(result.text == one.answers[turn])
    return dict(right)


def most_frequent(conversations: Sequence[Conversation]) -> dict[str, float]:
    """Share of the most frequent answer of each task."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in conversations:
        answers[one.task].update(one.answers)
    return {task: counts.most_common(1)[0][1] / counts.total() for task, counts in answers.items()}


def table(figures: dict[str, dict[str, float]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| task | answers | right | blind | most frequent |"
    yield "|---|---:|---:|---:|---:|"
    for task, one in figures.items():
        shares = (f"{100 * one[name]:.1f} %" for name in ("right", "blind", "most frequent"))
        yield f"| {task} | {one['answers']:.0f} | {' | '.join(shares)} |"


def main(
    checkpoint: Annotated[Path, typer.Option(help="Another one than the package's.")] = CHECKPOINT,
    each: Annotated[int, typer.Option(help="Samples of each task.")] = 100,
    split: Annotated[Split, typer.Option(help="Which pairs of colours and kinds, and which words.")] = Split.TEST,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON, too.")] = None,
) -> None:
    """Measure mossvl-tiny."""
    with TemporaryDirectory() as folder:
        shown, black = Path(folder, "shown"), Path(folder, "black")
        print("drawing pictures and clips", file=sys.stderr)
        conversations = write_conversations(shown, split, each)
        print("drawing black ones", file=sys.stderr)
        blind = write_conversations(black, split, each, blind=True)
        with MossVL(checkpoint) as llm:
            print("asking about what can be seen", file=sys.stderr)
            right = answered(llm, conversations)
            print("asking about what cannot", file=sys.stderr)
            guessed = answered(llm, blind)
    likely = most_frequent(conversations)
    figures = {
        task: {
            "answers": len(right[task]),
            "right": mean(right[task]),
            "blind": mean(guessed[task]),
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
