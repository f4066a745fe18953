"""Teach mossvl-tiny a shape that it has never seen, the arrow, from 200 examples. docs/training.md tells how.

python examples/new_shape.py write runs/arrow               pictures, train.jsonl and test.jsonl
python examples/new_shape.py score runs/arrow/test.jsonl    how many answers are right; -c: of another checkpoint
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw

from mossvl import MossVL
from mossvl.evaluation import ExactAnswers, ask, tallied
from mossvl.synthetic import COLOURS, KINDS, Scene, Thing, render
from mossvl.synthetic.world import Split, World

ARROW = ((0.0, -1.0), (0.8, -0.1), (0.3, -0.1), (0.3, 1.0), (-0.3, 1.0), (-0.3, -0.1), (-0.8, -0.1))
"""Corners, in radii from the centre, y downwards."""
SIDE, FINE = 256, 4
"""Pixels of a picture's side, and of an arrow's pixel before it is smoothed."""

app = typer.Typer(add_completion=False)


def with_arrow(scene: Scene, thing: Thing) -> Image.Image:
    """A scene's picture, with an arrow in a thing's place, size and colour."""
    others = Scene([one for one in scene.things if one is not thing], scene.background)
    picture = Image.fromarray(render([others], SIDE, SIDE)[0].numpy())
    corners = [
        (FINE * SIDE * (thing.x + thing.radius * x), FINE * SIDE * (thing.y + thing.radius * y)) for x, y in ARROW
    ]
    mask = Image.new("L", (FINE * SIDE, FINE * SIDE))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    picture.paste(COLOURS[thing.colour], mask=mask.reduce(FINE))
    return picture


def write_records(folder: Path, name: str, count: int) -> None:
    """Pictures of two or three things, each with a question about one of them: every other time about an arrow."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("w") as lines:
        for number in range(count):
            world = World(Split.TRAIN, f"arrows {name} {number}")
            colours = world.distinct(list(COLOURS), world.count(2, 3))
            scene = world.arranged([world.thing(colour, world.one(list(KINDS))) for colour in colours])
            first, last = scene.things[0], scene.things[-1]
            asked = first if number % 2 else last
            kind = "arrow" if asked is first else asked.kind
            question, answer = world.one(
                [
                    (f"What shape is the {asked.colour} thing?", kind),
                    (f"Which shape is {asked.colour}?", f"The {kind}."),
                ]
            )
            picture = folder / name / f"{number}.png"
            with_arrow(scene, first).save(picture)
            record = {"prompt": question, "response": answer, "images": [f"{name}/{picture.name}"], "shape": kind}
            lines.write(json.dumps(record) + "\n")


@app.command()
def write(folder: Path) -> None:
    """Write 200 examples to learn from, and 100 to test with."""
    write_records(folder, "train", 200)
    write_records(folder, "test", 100)


@app.command()
def score(
    records: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", "-c")] = None,
) -> None:
    """Ask all questions, and count right answers."""
    tasks = []
    for one in map(json.loads, records.read_text().splitlines()):
        pictures = [{"type": "image", "image": str(records.parent / image)} for image in one["images"]]
        question = {"role": "user", "content": [*pictures, {"type": "text", "text": one["prompt"]}]}
        name = "arrows" if one["shape"] == "arrow" else "other shapes"
        tasks.append(ExactAnswers(name, [question], [one["response"]]))
    with MossVL(checkpoint) as llm:
        right = tallied(ask(llm, tasks))
    for name, (total, answers) in sorted(right.items()):
        print(f"{name}: {total:.0f} of {answers} right")


if __name__ == "__main__":
    app()
