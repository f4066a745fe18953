"""mossvl-tiny learns what it is taught, keeps what it knew, and is merged with its adapters."""

import json
import runpy
from pathlib import Path

from typer.testing import CliRunner

import mossvl
from mossvl.checkpoints.default import CHECKPOINT
from mossvl.synthetic import COLOURS, Scene, Thing, write_picture
from mossvl.training.merge import merge
from mossvl.training.options import INNER, Part
from mossvl.training.run import TrainOptions, train


def test_a_new_word_is_learned_from_a_few_examples(tmp_path):
    records = []
    for kind, answer in (("heart", "glad"), ("cross", "sad")):
        for colour in list(COLOURS)[:8]:
            picture = tmp_path / f"{kind}-{colour}.png"
            write_picture(Scene([Thing(kind, colour)]), picture, 128, 128)
            records.append({"prompt": "How does it feel?", "response": answer, "images": [picture.name]})
    kept, held_out = [records[i] for i in range(16) if i % 8], [records[i] for i in (0, 8)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, kept)))
    learned = {"parts": (*INNER, Part.EMBEDDINGS), "learning_rate": 1e-3, "batch": 7, "epochs": 40}
    common = {"checkpoint": str(CHECKPOINT), "data": tmp_path / "data.jsonl", "device": "cpu", "workers": 0}
    adapter = train(TrainOptions(**common, **learned, output=tmp_path / "out"))
    merge(adapter, tmp_path / "tuned", dtype="float32")

    queries = [{"prompt": one["prompt"], "images": [str(tmp_path / one["images"][0])]} for one in held_out]
    known = [{**query, "prompt": "What shape is the red thing?"} for query in queries]
    answers = {}
    for name, checkpoint in (("before", CHECKPOINT), ("after", tmp_path / "tuned")):
        with mossvl.MossVL(checkpoint, device="cpu") as llm:
            answers[name] = [result.text for result in llm.generate([*queries, *known])]
    assert answers["before"][2:] == answers["after"][2:] == ["heart", "cross"]
    assert answers["after"][:2] == ["glad", "sad"] != answers["before"][:2]


def test_the_tutorial_draws_and_scores(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "new_shape.py"
    tutorial = runpy.run_path(str(script), run_name="tutorial")
    tutorial["write_records"](tmp_path, "few", 4)
    shapes = [json.loads(line)["shape"] for line in (tmp_path / "few.jsonl").read_text().splitlines()]
    assert shapes.count("arrow") == 2
    result = CliRunner().invoke(tutorial["app"], ["score", str(tmp_path / "few.jsonl")])
    assert result.output.splitlines()[-2:] == ["arrows: 0 of 2 right", "other shapes: 2 of 2 right"]
