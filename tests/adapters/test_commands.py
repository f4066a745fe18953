"""`--lora` of the commands."""

import json

import pytest
from golden_cases import CHECKPOINT
from typer.testing import CliRunner

from mossvl.cli.main import commands
from mossvl.cli.options import only_adapter
from mossvl.training.merge import merge
from mossvl.training.options import Part
from mossvl.training.run import TrainOptions, train

FLAGS = "-c", CHECKPOINT, "--max-new-tokens", 6, "--ignore-eos"


def command(*arguments):
    return CliRunner().invoke(commands, [str(one) for one in arguments])


@pytest.fixture
def own(adapters):
    adapters.add("own")
    return adapters


def test_ask_has_an_adapter_answer(own):
    plain, adapted = (command("ask", *more, "Why?", *FLAGS).stdout for more in ([], ["--lora", own.folders["own"]]))
    assert plain != adapted and adapted.strip()


def test_rows_of_run_choose_adapters(own, tmp_path):
    rows = [
        {},
        {"lora": "own"},
        {"model": "own", "lora": None},
        {"model": "checkpoint"},
        {"lora": "others"},
        {"model": "others"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": "Why?", **row}) + "\n" for row in rows))
    result = command(
        "run", tmp_path / "rows.jsonl", "-o", tmp_path / "answers.jsonl", *FLAGS, "--lora", f"own={own.folders['own']}"
    )
    answers = {one["index"]: one for one in map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())}
    assert result.exit_code == 1
    texts = [answers[index]["text"] for index in range(4)]
    assert texts[0] == texts[3] != texts[1] == texts[2]
    assert "unknown adapter (lora) 'others'" in answers[4]["error"] and "'model'" in answers[5]["error"]


@pytest.mark.parametrize("name", ["ask", "run", "serve"])
def test_what_is_no_adapter_is_one_line_and_exit_code_2(name, own, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Why?"}\n')
    given = {
        "ask": ["Why?", "-c", CHECKPOINT, "--lora", tmp_path],
        "run": [tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl", "-c", CHECKPOINT, "--lora", f"a={tmp_path}"],
        "serve": ["--port", 0, "-c", CHECKPOINT, "--lora", tmp_path],
    }[name]
    result = command(name, *given)
    assert result.exit_code == 2
    (line,) = [one for one in result.stderr.splitlines() if "error" in one]
    assert ("NAME=PATH" if name == "serve" else "has no adapter_config.json") in line


@pytest.mark.parametrize("name", ["run", "serve"])
def test_an_adapter_that_is_named_as_the_model_is_refused_before_it_is_loaded(name, tmp_path, monkeypatch):
    monkeypatch.setattr("mossvl.loading.load", None)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Why?"}\n')
    given = {"run": [tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl"], "serve": ["--port", 0]}[name]
    result = command(name, *given, "-c", CHECKPOINT, "--lora", f"checkpoint={tmp_path}")
    assert result.exit_code == 2
    assert "--lora: the adapter 'checkpoint' is named as the model" in result.stderr


def test_a_path_has_a_name_if_it_is_given_one(tmp_path):
    assert only_adapter(None) is None
    assert only_adapter("a/b") == {"adapter": "a/b"} and only_adapter("x=a/b") == {"x": "a/b"}
    assert only_adapter("x=" + "y" * 5000) == {"x": "y" * 5000}
    (tmp_path / "x=y").mkdir()
    assert only_adapter(str(tmp_path / "x=y")) == {"adapter": str(tmp_path / "x=y")}


def test_what_train_writes_answers_as_merged(tmp_path, loaded):
    """With the parts that are trained by default, of which one is in the vision tower."""
    lines = '{"prompt": "Why?", "response": "So."}', '{"prompt": "How?", "response": "Thus."}'
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    options = {"checkpoint": str(CHECKPOINT), "data": tmp_path / "data.jsonl", "device": "cpu", "learning_rate": 0.1}
    assert Part.MERGER in TrainOptions(**options, output=tmp_path / "out").parts
    train(TrainOptions(**options, output=tmp_path / "out", max_steps=4, save_every=4, workers=0))
    merge(tmp_path / "out/adapter", tmp_path / "merged", dtype="float32")
    asked = "ask", CHECKPOINT.parent / "media/shapes.png", "Why?", "--max-new-tokens", 12, "--ignore-eos"
    merged, base, adapted = (
        command(*asked, "--dtype", "float32", "-c", *rest).stdout
        for rest in ([tmp_path / "merged"], [CHECKPOINT], [CHECKPOINT, "--lora", tmp_path / "out/adapter"])
    )
    assert adapted == merged != base
