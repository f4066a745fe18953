"""Ray Data: `build_processor` answers the rows of a dataset as `MossVL` answers their queries, each once."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from adapted_models import Adapted
from descendants import descendants, left

from mossvl import SamplingParams
from mossvl.errors import EngineError, GenerationTimeout, OptionError, ReplicaError
from mossvl.queries.results import Answer, Result

data = pytest.importorskip("ray.data", reason="no Ray; .ci/ray installs it")

ENGINE = {"memory": 1 << 24, "device": "cpu"}
ANSWER = (
    *("generated_text", "generated_tokens", "num_input_tokens", "num_generated_tokens", "time_taken_llm"),
    "__inference_error__",
)
MANY = 240
ACTOR = "ray::MapWorker"
"""How the processes of actors are called."""


@pytest.fixture
def process(cluster, checkpoint):
    """Answers rows with these options → rows, by their ids."""
    from mossvl.ray import build_processor

    def process(rows, preprocess=None, postprocess=None, **options):
        given = {"model_source": checkpoint, "engine_kwargs": ENGINE, "batch_size": 4, **options}
        dataset = data.from_items(rows, override_num_blocks=max(2, len(rows) // 10))
        return build_processor(preprocess=preprocess, postprocess=postprocess, **given)(dataset)

    return process


def by_id(dataset):
    rows = dataset.take_all()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def asking(text, *media):
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


@pytest.fixture
def questions(media):
    """Rows of several forms, each with the keys that differ in the query of `MossVL` that it stands for."""
    clip, picture = str(media / "clip_10fps_6s.mp4"), str(media / "small.png")
    video, image = {"type": "video", "video": clip, "max_frames": 2}, {"type": "image", "image": picture}
    urls = [{"type": kind, kind: {"url": file}} for kind, file in (("video_url", clip), ("image_url", picture))]
    both, bare = asking("What?", video, image), asking("What?", {"type": "video", "video": clip}, image)
    short, forms = {"max_new_tokens": 3}, {"choice": ["yes", "no"]}
    drawn = {"temperature": 0.7, "seed": 3}
    return [
        ({"prompt": "What?", "videos": [clip]}, {}),
        ({"prompt": "What?", "images": [picture], "generate_kwargs": short}, {}),
        ({"messages": both, "sampling_params": {"max_tokens": 3}}, {"generate_kwargs": short}),
        (
            {"messages": asking("What?", *urls), "sampling_params": {**short, "detokenize": False}},
            {"messages": bare, "generate_kwargs": short},
        ),
        (
            {"messages": [{"role": "user", "content": "Who?"}], "sampling_params": drawn},
            {"generate_kwargs": {**drawn, "do_sample": True, "top_k": 0}},
        ),
        ({"messages": asking("Who?"), "sampling_params": {"structured_outputs": forms}}, {"generate_kwargs": forms}),
    ]


BAD = {
    "no file": ({"prompt": "x", "images": ["/none.png"]}, "/none.png: no such file"),
    "no query": ({"other": 1}, "either a prompt or messages"),
    "unknown": ({"prompt": "x", "sampling_params": {"max_token": 3}}, "unknown generation option 'max_token'"),
    "both": ({"prompt": "x", "sampling_params": {"n": 1}, "generate_kwargs": {"n": 1}}, "sampling_params or generate"),
    "roles": ({"messages": [{"role": "robot", "content": "x"}]}, "'robot'"),
}


def test_rows_of_every_form_are_answered_and_bad_ones_cost_themselves(process, questions, llm):
    rows = [{"id": f"good {number}", "kept": number, **row} for number, (row, _) in enumerate(questions)]
    rows += [{"id": name, "kept": -1, **row} for name, (row, _) in BAD.items()]
    answers = by_id(process(rows, should_continue_on_error=True))
    assert answers.keys() == {row["id"] for row in rows}
    for number, (row, differing) in enumerate(questions):
        query = {name: value for name, value in row.items() if name != "sampling_params"}
        answer, alone = answers[f"good {number}"], llm.generate(query | differing)
        assert answer["kept"] == number
        assert answer["time_taken_llm"] > 0
        assert [answer[name] for name in ANSWER if name != "time_taken_llm"] == [
            *(alone.text, alone.token_ids, alone.usage.prompt_tokens, alone.usage.new_tokens),
            "",
        ]
    for name, (_, told) in BAD.items():
        assert told in answers[name]["__inference_error__"]
        assert [answers[name][column] for column in ANSWER[:4]] == ["", [], 0, 0]


def test_without_leave_to_continue_the_error_of_a_row_ends_the_run_and_names_the_row(process):
    rows = [{"id": 7, "prompt": "hello"}, {"id": 8, "prompt": "x", "images": ["/none.png"]}]
    with pytest.raises(Exception, match=r"a row \(id 8\) has failed: /none.png: no such file") as raised:
        process(rows).take_all()
    assert "should_continue_on_error" in str(raised.value)


def test_rows_are_changed_before_and_after_and_errors_pass_the_change_after(process, llm):
    def before(row):
        if row["id"] == 2:
            raise ValueError("not this one")
        content = [{"type": "text", "text": row["text"]}]
        return {"messages": [{"role": "user", "content": content}], "sampling_params": {"max_tokens": row["id"] + 2}}

    def after(row):
        return {"id": row["id"], "said": row["generated_text"], "text": row["text"]}

    rows = [{"id": number, "text": f"Tell me {number}"} for number in range(4)]
    answers = by_id(process(rows, before, after, should_continue_on_error=True))
    for number in (0, 1, 3):
        alone = llm.generate({"prompt": f"Tell me {number}", "generate_kwargs": {"max_new_tokens": number + 2}})
        told = {name: value for name, value in answers[number].items() if value is not None}
        assert told == {"id": number, "said": alone.text, "text": f"Tell me {number}", "__inference_error__": ""}
    assert answers[2]["__inference_error__"] == "preprocess: ValueError: not this one"


def test_a_row_chooses_an_adapter_by_its_model_or_lora(process, model, processor, tmp_path, make):
    adapted = Adapted(model, processor, tmp_path)
    adapted.add("one")
    chosen = {"plain": {}, "model": {"model": "one"}, "lora": {"lora": "one"}, "other": {"model": "x"}}
    rows = [{"id": name, **keys} for name, keys in chosen.items()]
    asked = {"prompt": "Why?", "generate_kwargs": {"max_new_tokens": 6, "ignore_eos": True}}
    answers = by_id(process([row | asked for row in rows], engine_kwargs={**ENGINE, "lora": adapted.folders}))
    llm = make(lora=adapted.folders)
    plain, one = (llm.generate(asked | keys).token_ids for keys in ({}, {"lora": "one"}))
    assert plain != one
    told = {name: answer["generated_tokens"] for name, answer in answers.items()}
    assert told == {"plain": plain, "model": one, "lora": one, "other": plain}


@pytest.mark.parametrize("model", [["one"], {"one": 1}, np.array(["one", "two"])], ids=["list", "dict", "array"])
def test_a_column_named_model_that_holds_no_names_is_left_out(model):
    from mossvl.ray.rows import query_of

    assert query_of({"prompt": "Why?", "model": model}, {"one": "folder"}) == ({"prompt": "Why?"}, None)


def test_a_row_that_kills_the_engines_process_costs_itself(cluster, checkpoint, llm):
    class Killer:
        """A medium that ends the process that it is sent to."""

        def __reduce__(self):
            return os._exit, (9,)

    from mossvl.ray import ProcessorConfig
    from mossvl.ray.answering import Asked
    from mossvl.ray.processor import answered

    fatal, count, short = 7, 24, SamplingParams(max_new_tokens=4)

    def read(row):
        return Asked({"prompt": f"hello {row['id']}", "images": [Killer()] if row["id"] == fatal else []}, short)

    config = ProcessorConfig(checkpoint, ENGINE, batch_size=8, max_concurrent_batches=2, should_continue_on_error=True)
    rows = [{"id": number} for number in range(count)]
    answers = by_id(answered(data.from_items(rows, override_num_blocks=3), config, read))
    alone = llm.generate([{"prompt": f"hello {number}"} for number in range(count)], short)
    for number, answer in answers.items():
        if number == fatal:
            assert "exit code 9 before the answer was complete, also when" in answer["__inference_error__"]
            assert [answer[name] for name in ANSWER[:4]] == ["", [], 0, 0]
        else:
            assert (answer["generated_tokens"], answer["__inference_error__"]) == (alone[number].token_ids, "")
    assert len(answers) == count


def test_an_engine_that_cannot_be_started_again_ends_the_run():
    from mossvl.ray import ProcessorConfig
    from mossvl.ray.answering import Answering

    answering = Answering.__new__(Answering)
    answering.config = ProcessorConfig(should_continue_on_error=True)
    answering.check({"id": 1}, Result.of_error(ReplicaError("killed by the row")))
    with pytest.raises(EngineError, match="all replicas have been given up"):
        answering.check({"id": 1}, Result.of_error(EngineError("all replicas have been given up")))


def test_of_a_row_that_has_failed_nothing_is_told_but_its_error():
    from mossvl.ray.rows import columns_of

    late = replace(Result.of_error(GenerationTimeout("too late")), answers=[Answer("begun", [3], "error")])
    told = columns_of([late])
    assert (told["generated_text"], told["generated_tokens"], told["__inference_error__"]) == ([""], [[]], ["too late"])


def test_actors_that_are_killed_are_started_again_and_every_row_is_answered_once(process, llm):
    rows = [{"id": number, "prompt": f"hello {number}"} for number in range(MANY)]
    short = {"max_new_tokens": 8}
    dataset = process([{**row, "generate_kwargs": short} for row in rows], concurrency=2, max_concurrent_batches=2)
    answers, killed = [], set()
    for answer in dataset.iter_rows():
        answers.append(answer)
        if len(answers) % 40 == 20 and len(killed) < 3:
            actor = next(pid for pid, line in descendants().items() if line.startswith(ACTOR) and pid not in killed)
            os.kill(actor, signal.SIGKILL)
            killed.add(actor)
    assert len(killed) == 3
    assert sorted(answer["id"] for answer in answers) == list(range(MANY))
    alone = llm.generate([{"prompt": row["prompt"], "generate_kwargs": short} for row in rows])
    told = {answer["id"]: answer["generated_tokens"] for answer in answers}
    assert told == {number: result.token_ids for number, result in enumerate(alone)}


def test_an_actor_whose_model_is_cut_among_ranks_answers_alike_and_dies_with_them(process, llm):
    rows = [
        {"id": number, "prompt": f"hello {number}", "generate_kwargs": {"max_new_tokens": 6}} for number in range(80)
    ]
    dataset = process(rows, engine_kwargs={**ENGINE, "tensor_parallel_size": 2})
    answers, killed = {}, set()
    for answer in dataset.iter_rows():
        answers[answer["id"]] = answer["generated_tokens"]
        if len(answers) == 5:
            named = [pid for pid, line in descendants().items() if line.startswith(ACTOR)]
            actor = max(named, key=lambda pid: len(descendants(pid)))  # What it forks has its name for a moment.
            ranks = descendants(actor)
            assert ranks
            os.kill(actor, signal.SIGKILL)
            killed = {actor, *ranks}
    alone = llm.generate([{name: value for name, value in row.items() if name != "id"} for row in rows])
    assert answers == {number: result.token_ids for number, result in enumerate(alone)}
    assert killed and left(killed) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_sorce": "x"}, "did you mean 'model_source'"),
        ({"model_source": 3}, "model_source=3"),
        ({"engine_kwargs": {"max_batc": 3}}, "did you mean 'max_batch'"),
        ({"engine_kwargs": 3}, "engine_kwargs=3"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": (3, 2)}, "least number of actors comes first"),
        ({"concurrency": (1, 2, 3)}, "must be a number of actors"),
        ({"should_continue_on_error": "yes"}, "true or false"),
        ({"config": {"batch_size": 3}}, "must be a ProcessorConfig"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(options, message):
    from mossvl.ray import build_processor

    with pytest.raises(OptionError, match=message):
        build_processor(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpus": 99}, "an actor needs 99 CPUs of one node, but the largest node of this Ray cluster has 4"),
        ({"engine_kwargs": {"device": "cuda"}}, "needs 1 GPUs of one node, but .* has 0"),
    ],
)
def test_an_actor_that_no_node_can_run_is_refused_at_once(process, options, message):
    with pytest.raises(OptionError, match=message):
        process([{"prompt": "x"}], **options)


def test_a_checkpoint_that_is_none_ends_the_run_with_its_error(process):
    with pytest.raises(Exception, match="CheckpointError: /none is not a folder"):
        process([{"prompt": "x"}], model_source="/none").take_all()
