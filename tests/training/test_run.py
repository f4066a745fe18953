"""Fine-tuning from files: adapters and weights, going on after a stop, merging, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

import mossvl
from mossvl.errors import CheckpointError, DataError, OptionError
from mossvl.training import run
from mossvl.training.merge import merge
from mossvl.training.parts import Part
from mossvl.training.run import TrainOptions, train
from mossvl.training.trainer import PackedTrainer, StopAfter


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    """Three conversations, one of them about a picture."""
    path = tmp_path_factory.mktemp("data") / "records.jsonl"
    picture = sorted((golden / "media").glob("*.png"))[0]
    records = [{"prompt": f"Question {n}?", "response": f"Answer {n}."} for n in range(2)]
    records.append({"prompt": "<|image|>What is it?", "response": "A picture.", "images": [str(picture)]})
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture
def options(data, golden, tmp_path):
    return {
        "checkpoint": str(golden / "checkpoint"),
        "data": data,
        "output": tmp_path / "out",
        "device": "cpu",
        "batch": 1,
        "learning_rate": 1e-2,
        "save_every": 1,
        "log_every": 1,
        "workers": 0,
    }


def test_adapters_are_trained_and_merged_into_weights(options, golden, tmp_path):
    adapter = train(TrainOptions(**options, rank=2, epochs=3))
    assert adapter == options["output"] / "adapter"
    assert not (options["output"] / "unfinished").exists()
    (tmp_path / "unfinished").mkdir()  # somebody's own
    merge(adapter, tmp_path / "merged", dtype="float32")
    merged, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", golden / "checkpoint")
    )
    assert merged.keys() == before.keys()
    changed = {name for name in merged if not torch.equal(merged[name], before[name].float())}
    assert changed and all("proj" in name or "linear_fc" in name for name in changed)
    assert not any("embed_tokens" in name or "visual.blocks" in name for name in changed)
    llm = mossvl.MossVL(tmp_path / "merged", device="cpu")
    assert llm.generate(["Question 0?"], progress=False)[0].text.startswith("Answer")
    assert (tmp_path / "unfinished").exists()
    with pytest.raises(CheckpointError, match=r"; it is .*out/adapter$"):
        merge(options["output"], tmp_path / "other")
    with pytest.raises(CheckpointError, match="exists already"):
        merge(adapter, tmp_path / "merged")


def test_only_chosen_parts_of_the_weights_learn(options, golden):
    model = train(TrainOptions(**options, adapt=False, parts=[Part.LM_HEAD], max_steps=2))
    after, before = (load_file(folder / "model.safetensors") for folder in (model, golden / "checkpoint"))
    changed = {name for name in after if not torch.equal(after[name].float(), before[name].float())}
    assert changed == {"lm_head.weight", "model.language_model.norm.weight"}


@pytest.mark.parametrize(("dtype", "part"), [("bfloat16", Part.LM_HEAD), ("float16", Part.VISION), (None, Part.MERGER)])
def test_weights_are_written_in_the_precision_that_is_asked_for(dtype, part, options, golden):
    model = train(TrainOptions(**options, adapt=False, parts=[part], max_steps=1, warmup=0.0, dtype=dtype))
    after, before = (load_file(folder / "model.safetensors") for folder in (model, golden / "checkpoint"))
    assert {one.dtype for one in after.values()} == {getattr(torch, dtype or "float32")}
    assert any(not torch.equal(after[name], before[name].to(after[name].dtype)) for name in after)


def test_a_run_that_stopped_goes_on_exactly(options, tmp_path, monkeypatch):
    whole = train(TrainOptions(**options, adapt=False, max_steps=4))
    parts = {**options, "output": tmp_path / "parts", "adapt": False, "max_steps": 4}
    begin = run.PackedTrainer

    def stopping(*args, **kwargs):
        return begin(*args, **kwargs, callbacks=[StopAfter(0.0)])

    with monkeypatch.context() as patched:
        patched.setattr(run, "PackedTrainer", stopping)
        train(TrainOptions(**parts))
    with pytest.raises(OptionError, match="give --resume"):
        train(TrainOptions(**parts))
    with pytest.raises(OptionError, match=r"batch=2 \(was 1\), learning_rate=1.0 \(was 0.01\)"):
        train(TrainOptions(**{**parts, "batch": 2, "learning_rate": 1.0}, resume=True))
    steps = []
    step = PackedTrainer.training_step
    with monkeypatch.context() as patched:
        patched.setattr(PackedTrainer, "training_step", lambda *given: steps.append(given) or step(*given))
        resumed = train(TrainOptions(**parts, resume=True))
    assert len(steps) == 3, "one of four was made before"
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("adapt", "length"), [(True, {"max_steps": 2}), (False, {"epochs": 2 / 3})])
def test_a_run_that_is_through_is_only_written_when_it_is_resumed(adapt, length, options):
    given = {**options, "adapt": adapt, "rank": 2, **length}
    folder = train(TrainOptions(**given))
    (name,) = [path.name for path in folder.glob("*.safetensors")]
    before = load_file(folder / name)
    (folder / name).unlink()
    again = load_file(train(TrainOptions(**given, resume=True)) / name)
    assert all(torch.equal(before[key], again[key]) for key in before)
    assert not (options["output"] / "checkpoint-3").exists()


def test_evaluation_and_gradient_checkpointing(options, data):
    train(
        TrainOptions(**options, max_steps=1, eval_data=data, eval_every=1, gradient_checkpointing=True, vision_chunk=1)
    )
    state = json.loads((options["output"] / "checkpoint-1" / "trainer_state.json").read_text())
    assert any("eval_loss" in line for line in state["log_history"])


def test_evaluation_counts_answers_that_would_be_right(options, data, tmp_path):
    adapter = train(TrainOptions(**options, epochs=10, eval_data=data, eval_every=30))
    state = json.loads((options["output"] / "checkpoint-30" / "trainer_state.json").read_text())
    shares = [line["eval_right"] for line in state["log_history"] if "eval_right" in line]
    merge(adapter, tmp_path / "merged", dtype="float32")
    records = [json.loads(line) for line in data.read_text().splitlines()]
    queries = [{"prompt": one["prompt"].removeprefix("<|image|>"), "images": one.get("images")} for one in records]
    with mossvl.MossVL(tmp_path / "merged", device="cpu") as llm:
        answers = [result.text for result in llm.generate(queries, progress=False)]
    right = [answer == one["response"] for answer, one in zip(answers, records, strict=True)]
    assert shares[-1] == pytest.approx(sum(right) / 3) and any(right)


def test_what_cannot_be_trained_on_is_refused(options, tmp_path):
    def refused(error, match, **given):
        with pytest.raises(error, match=match):
            train(TrainOptions(**{**options, **given}))

    refused(OptionError, "no output", output=None)
    refused(OptionError, "no checkpoint to resume from", resume=True)
    refused(OptionError, "device='cpu:1': choose a GPU with CUDA_VISIBLE_DEVICES", device="cpu:1")
    refused(OptionError, "no part is trained", parts=[])
    refused(OptionError, "batch=0 must be at least 1", batch=0)
    refused(OptionError, "vision_chunk=-1 must be at least 1", vision_chunk=-1)
    refused(OptionError, "lm-head alone: adapters need a part with layers", parts=[Part.LM_HEAD])
    refused(DataError, "does not exist", data=tmp_path / "gone.jsonl")
    empty, bad = tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.write_text("\n\n")
    bad.write_text('{"prompt": "?", "response": ""}\nno JSON\n')
    refused(DataError, "has no records", data=empty)
    refused(DataError, "all 2 records are bad", data=bad)
    refused(DataError, "line 1: there is nothing to learn", data=bad, bad="stop", max_steps=2)


@pytest.mark.parametrize("kind", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_vision_in_chunks_is_refused_where_processes_have_pieces_of_it(kind, options, monkeypatch):
    begin = PackedTrainer.__init__

    def in_pieces(self, **given):
        begin(self, **given)
        setattr(self, kind, True)

    monkeypatch.setattr(PackedTrainer, "__init__", in_pieces)
    with pytest.raises(OptionError, match=r"vision_chunk=2: .* equally often"):
        train(TrainOptions(**options, vision_chunk=2))


@pytest.mark.parametrize("adapt", [True, False])
def test_texts_alone_go_with_parts_that_only_pictures_reach(adapt, options):
    chosen = {"parts": [Part.VISION], "max_steps": 3, "adapt": adapt}
    assert train(TrainOptions(**options, **chosen)).is_dir()  # two of three examples are text only


def test_merging_needs_an_adapter(tmp_path):
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        merge(tmp_path, tmp_path / "merged")
