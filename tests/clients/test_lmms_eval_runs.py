"""Runs of lmms-eval, started as users start them: the plug-in is found, and answers are the offline methods'."""

import json
import os
import subprocess
import sys

import pytest
from lmms_eval_tasks import write_tasks

import mossvl
from mossvl.checkpoints.default import CHECKPOINT

pytest.importorskip("lmms_eval", reason="no lmms-eval; .ci/clients installs it")

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
"""What `accelerate launch` does on GPUs; on CPUs it starts one process."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def documents(tasks):
    return write_tasks(tasks)


@pytest.fixture(scope="module")
def expected(documents):
    """Answers of the offline methods."""
    model, processor = mossvl.load(CHECKPOINT, device="cpu")
    kinds = {"image", "video"}
    queries = [
        {
            "messages": [{"role": "user", "content": one["parts"]}],
            "media_kwargs": {"video_fps": 2, "max_frames": 24},
            "generate_kwargs": {"max_new_tokens": 48},
        }
        for one in documents
    ]
    assert all(kinds & {part["type"] for part in one["parts"]} for one in documents)
    try:
        found = model.offline_batch_generate(processor, queries, raise_on_error=True)["results"]
    finally:
        model.close_engine()
    return [one["text"] for one in found]


@pytest.fixture(scope="module")
def evaluate(tasks, documents, tmp_path_factory):
    """Run lmms-eval → its log, the aggregated results, and the samples of each task in order."""

    def evaluate(*flags, tasks_run="world_messages", launch=()):
        output = tmp_path_factory.mktemp("output")
        command = [
            *(sys.executable, *launch, "-m", "lmms_eval", "--model", "moss_vl"),
            *("--model_args", f"pretrained={CHECKPOINT},fps=2,max_frames=24", "--tasks", tasks_run),
            *("--include_path", tasks, "--output_path", output, "--log_samples", *flags),
        ]
        environment = os.environ | OFFLINE | {"HF_HOME": str(tasks / "cache")}
        ended = subprocess.run(
            [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=500
        )
        log = ended.stdout + ended.stderr
        assert ended.returncode == 0 and "Error during evaluation" not in log, log
        (results,) = output.rglob("*_results.json")
        samples = {}
        for file in output.rglob("*_samples_*.jsonl"):
            lines = sorted(map(json.loads, file.read_text().splitlines()), key=lambda line: line["doc_id"])
            samples[file.stem.split("_samples_")[1]] = lines
        return log, json.loads(results.read_text()), samples

    return evaluate


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def first(evaluate, cache):
    return evaluate("--use_cache", cache, tasks_run="world_messages,world_visuals")


def texts(samples):
    return [one["filtered_resps"] for one in samples]


def test_answers_are_those_of_the_offline_methods(first, expected):
    _, results, samples = first
    assert texts(samples["world_messages"]) == expected
    assert all(one["token_counts"][0]["output_tokens"] > 0 for one in samples["world_messages"])
    right = sum(one["target"] == answer for one, answer in zip(samples["world_messages"], expected, strict=True))
    assert results["results"]["world_messages"]["exact_match,none"] == pytest.approx(right / len(expected))


def test_media_of_a_task_without_messages_come_before_its_text(first, documents, expected):
    alone = [n for n, one in enumerate(documents) if [part["type"] for part in one["parts"]][1:] == ["text"]]
    assert len(alone) > 3
    found = texts(first[2]["world_visuals"])
    assert [found[n] for n in alone] == [expected[n] for n in alone]


def test_a_second_run_is_answered_from_the_cache(evaluate, cache, first, expected):
    log, _, samples = evaluate("--use_cache", cache)
    assert texts(samples["world_messages"]) == expected
    assert "all 9 requests served from cache" in log


def test_two_ranks_give_the_answers_of_one(evaluate, expected):
    log, results, samples = evaluate(launch=LAUNCH)
    assert texts(samples["world_messages"]) == expected
    assert results["n-samples"]["world_messages"] == {"original": 9, "effective": 9}
    assert "rank: 0, total_requests: 5" in log and "rank: 1, total_requests: 4" in log


def test_an_unknown_argument_ends_the_run_with_the_name_of_the_nearest(tasks, documents):
    command = [sys.executable, "-m", "lmms_eval", "--model", "moss_vl", "--model_args", "max_frame=3"]
    command += ["--tasks", "world_messages", "--include_path", str(tasks)]
    environment = os.environ | OFFLINE | {"HF_HOME": str(tasks / "cache")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert "unknown model argument 'max_frame'; did you mean 'max_frames'?" in ended.stdout + ended.stderr
