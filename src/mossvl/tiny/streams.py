"""How mossvl-tiny speaks: a line for each task of the procedural world's live streams.

`python -m mossvl.tiny.streams` shows streams of the test split to live sessions, one frame after each decision, and
prints a table: how often what is said was due, how often what was due is said, how late, and how often it is right.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.evaluation.live import evaluate, synthetic_scripts
from mossvl.evaluation.streaming import Score
from mossvl.llm import MossVL
from mossvl.options.checks import choice
from mossvl.synthetic.editions import EDITIONS
from mossvl.synthetic.live_records import live_samples
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.world import Split

SESSIONS = 16
"""Streams that are shown at the same time."""


def table(scores: Mapping[str, Score], each: int) -> Iterator[str]:
    """Yield the lines of a Markdown table; a dash stands where nothing was said or due."""
    yield "| task | streams | precision | recall | delay | right |"
    yield "|---|---:|---:|---:|---:|---:|"
    for task, score in scores.items():
        precision, recall, right = (
            "–" if share is None else f"{100 * share:.1f} %" for share in (score.precision, score.recall, score.right)
        )
        delay = "–" if score.delay is None else f"{score.delay:.2f} s"
        yield f"| {task} | {each} | {precision} | {recall} | {delay} | {right} |"


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to evaluate.")] = CHECKPOINT,
    each: Annotated[int, typer.Option(help="Streams of each task.")] = 100,
    split: Annotated[Split, typer.Option(help="Split of pairs.")] = Split.TEST,
    edition: Annotated[str, typer.Option(help="Edition of the world: first or second.")] = "second",
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Measure when mossvl-tiny speaks, and what it says."""
    world = EDITIONS[choice("edition", edition, tuple(EDITIONS))]
    samples = live_samples(split, "evaluation", each * len(STREAMS), edition=world)
    with MossVL(checkpoint) as llm:
        scores = evaluate(llm, synthetic_scripts(samples, llm.processor), sessions=SESSIONS)
    print(*table(scores, each), sep="\n")
    if output:
        output.write_text(json.dumps({task: score._asdict() for task, score in scores.items()}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
