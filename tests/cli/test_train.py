"""`mossvl train` and `mossvl merge` as users call them."""

import json
from pathlib import Path

import pytest

from mossvl.cli import extras
from mossvl.options import MediaOptions
from mossvl.training.options import Part, TrainOptions


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [{"prompt": "Who?", "response": "I."}, {"prompt": "Seen?", "response": "No.", "images": ["gone.png"]}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n{\n")
    return path


def test_check_counts_and_shows_what_is_learned(command, checkpoint, data):
    result = command("train", data, "-c", checkpoint, "--check", "--workers", 0)
    assert result.exit_code == 1  # There are bad records.
    assert "3 records, 2 of them bad" in result.stdout
    assert "line 2: gone.png: no such file" in result.stdout.replace(str(data.parent) + "/", "")
    assert "line 3: is not JSON" in result.stdout
    assert "⟦I.<|im_end|>⟧" in result.stdout


def test_check_shows_an_example_with_media_if_there_is_one(command, checkpoint, golden, tmp_path):
    texts = [{"prompt": f"Who {number}?", "response": "I."} for number in range(3)]
    picture = {"prompt": "Seen?", "response": "Yes.", "images": [str(golden / "media" / "shapes.png")]}
    (tmp_path / "data.json").write_text(json.dumps([*texts, picture]))
    result = command("train", tmp_path / "data.json", "-c", checkpoint, "--check", "--workers", 0)
    assert result.exit_code == 0 and "Who 0?" in result.stdout and "Who 1?" not in result.stdout
    assert "<|image_pad|>" in result.stdout.split("Who 0?")[1]


def test_check_draws_live_records_and_counts_their_decisions(command, checkpoint, golden, tmp_path):
    turns = [("user", "Watch."), ("assistant", "<|silence|><|video|><|silence|><|video|><|response|>A car.<|silence|>")]
    record = {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "videos": [{"video_path": str(golden / "media" / "clip_10fps_6s.mp4"), "segments": [[0], [2.5]]}],
    }
    (tmp_path / "live.jsonl").write_text(json.dumps(record))
    result = command("train", tmp_path / "live.jsonl", "-c", checkpoint, "--check", "--workers", 0)
    assert result.exit_code == 0 and "form of live.jsonl: live records as messages (OpenAI)" in result.stdout
    assert "live: 1 streams with 2 frames, and 3 silences and 1 responses with loss" in result.stdout
    assert "0 images, 0 videos or parts of them with 0 frames" in result.stdout
    assert "     2.5 s  [" in result.stdout and "⟦<|response|>A car.<|silence|>⟧" in result.stdout


def test_check_names_the_form_of_each_file(command, checkpoint, tmp_path):
    swift = {"query": "Who?", "response": "I.", "history": [["Hello", "Hi."]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(swift))
    (tmp_path / "b.json").write_text(json.dumps([swift, {"prompt": "Who?", "response": "I."}, swift]))
    result = command("train", tmp_path, "-c", checkpoint, "--check", "--workers", 0)
    assert "form of a.jsonl: query and response (ms-swift)\n" in result.stdout
    assert "form of b.json: query and response (ms-swift) (2) and prompt and response (1)\n" in result.stdout


@pytest.mark.parametrize("flag", ["--media-dir", "--data-dir"])
def test_paths_of_media_start_where_a_flag_says_also_by_its_older_name(flag, command, checkpoint, golden, tmp_path):
    record = {"prompt": "Seen?", "response": "Yes.", "images": ["shapes.png"]}
    (tmp_path / "data.jsonl").write_text(json.dumps(record))
    asked = ["train", tmp_path / "data.jsonl", "-c", checkpoint, "--check", "--workers", 0]
    assert command(*asked).exit_code == 2
    assert "1 records, 0 of them bad" in command(*asked, flag, golden / "media").stdout


def test_the_older_name_is_not_shown_and_not_mixed_with_the_new_one(command, data):
    assert "--data-dir" not in command("train", "--help").stdout
    both = command("train", data, "-o", "unused", "--media-dir", data.parent, "--data-dir", data.parent)
    assert both.exit_code == 2 and "older name of --media-dir" in both.stderr


def test_flags_become_the_options_of_the_run(command, checkpoint, data, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("mossvl.training.run.train", lambda options: given.append(options) or tmp_path)
    few = [
        "--max-steps",
        3,
        "--learning-rate",
        "0.01",
        "--bad",
        "stop",
        "--compile",
        "--warmup",
        0,
        "--eval-data",
        data,
    ]
    parts = ["--part", "vision", "--part", "merger", "--part", "vision", "--max-frames", 4]
    assert command("train", data, "-c", checkpoint, "-o", tmp_path / "out", *few, *parts, "--full").exit_code == 0
    assert given == [
        TrainOptions(
            checkpoint=str(checkpoint),
            data=data,
            output=tmp_path / "out",
            max_steps=3,
            learning_rate=0.01,
            bad="stop",
            compile=True,
            warmup=0.0,
            eval_data=data,
            parts=(Part.VISION, Part.MERGER),
            media=MediaOptions(max_frames=4),
            adapt=False,
        )
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "mossvl ask --lora made … answers with it; mossvl merge made -o FOLDER writes a checkpoint"),
        (
            ["--part", "embeddings"],
            "mossvl merge made -o FOLDER writes a checkpoint, and mossvl ask -c FOLDER … answers",
        ),
        (["--full"], "mossvl ask -c made … answers with it"),
    ],
    ids=["adapter", "adapter with whole weights", "full"],
)
def test_the_end_of_a_run_says_how_to_ask_with_the_result(
    command, checkpoint, data, monkeypatch, tmp_path, flags, told
):
    monkeypatch.setattr("mossvl.training.run.train", lambda options: Path("made"))
    result = command("train", data, "-c", checkpoint, "-o", tmp_path / "out", *flags)
    assert (result.exit_code, result.stdout) == (0, "made\n")
    assert f"mossvl: {told}" in result.stderr


def test_what_would_change_nothing_or_has_no_place_to_go_is_refused(command, checkpoint, data):
    idle = command("train", data, "-c", checkpoint, "-o", "unused", "--full", "--rank", 4)
    assert idle.exit_code == 2 and "--rank would change nothing with --full" in idle.stderr
    nowhere = command("train", data, "-c", checkpoint)
    assert nowhere.exit_code == 2 and "--output" in nowhere.stderr


def test_check_fails_where_nothing_can_be_used(command, checkpoint, tmp_path):
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    result = command("train", tmp_path / "bad.jsonl", "-c", checkpoint, "-o", "unused", "--check", "--workers", 0)
    assert result.exit_code == 2 and "every record is bad" in result.stderr


@pytest.mark.parametrize("arguments", [["train", "DATA", "-o", "out"], ["merge", "ADAPTER", "-o", "out"]])
def test_libraries_that_are_missing_are_named_with_what_brings_them(arguments, data, command, monkeypatch, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    places = {"DATA": data, "ADAPTER": tmp_path}
    monkeypatch.setattr(extras, "installed", lambda name: name not in ("peft", "tensorboard", "fastapi"))
    result = command(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert "peft, tensorboard not installed" in result.stderr and "pip install '.[train]'" in result.stderr


def test_an_extra_is_known_by_what_is_installed():
    extras.need("train")
    assert extras.installed("mossvl") and not extras.installed("no-such-distribution")


def test_a_model_is_trained_and_merged(start, checkpoint, data, tmp_path):
    few = "--max-steps", 1, "--workers", 0, "--device", "cpu", "--rank", 2
    training = start("train", data, "-c", checkpoint, "-o", tmp_path / "out", *few)
    out, errors = training.communicate(timeout=120)
    assert training.returncode == 0, errors.decode()
    assert out.decode().splitlines()[-1] == str(tmp_path / "out" / "adapter")
    merging = start("merge", tmp_path / "out" / "adapter", "-o", tmp_path / "merged", MOSSVL_CHECKPOINT="another")
    out, errors = merging.communicate(timeout=120)
    assert merging.returncode == 0, errors.decode()
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_the_description_of_an_adapter_is_the_same_in_every_run(start, checkpoint, data, tmp_path, monkeypatch):
    written = []
    for seed in ("1", "2"):  # of the order that Python gives to sets of names
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        few = "--max-steps", 1, "--workers", 0, "--device", "cpu", "--part", "merger", "--part", "self-attention"
        process = start("train", data, "-c", checkpoint, "-o", tmp_path / seed, *few)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors.decode()
        places = [tmp_path / seed / folder / "adapter_config.json" for folder in ("adapter", "checkpoint-1")]
        written += [place.read_bytes() for place in places]
    assert len(set(written)) == 1
    targets = json.loads(written[0])["target_modules"]
    assert targets == sorted(targets) and len(targets) > 5


def test_a_damaged_checkpoint_costs_one_line(start, checkpoint, data, tmp_path):
    def train(*more):
        few = "--max-steps", 2, "--save-every", 1, "--workers", 0, "--device", "cpu", "--rank", 2
        process = start("train", data, "-c", checkpoint, "-o", tmp_path, *few, *more)
        errors = process.communicate(timeout=120)[1].decode()
        return process.returncode, [line for line in errors.splitlines() if " damaged" in line], errors

    assert train()[0] == 0
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    code, (line,), errors = train("--resume")
    assert code == 0 and "Traceback" not in errors
    assert f"{tmp_path}/checkpoint-2 is damaged" in line and f"going on from {tmp_path}/checkpoint-1" in line
    for number in (1, 2):
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").unlink()
    code, (line,), errors = train("--resume")
    assert code == 2 and "Traceback" not in errors and "there is none to go on from" in line


def test_parts_of_the_command_are_those_of_training(command):
    from mossvl.training.parts import Part

    assert f"[{'|'.join(Part)}]" in command("train", "--help", env={"COLUMNS": "300"}).stdout
