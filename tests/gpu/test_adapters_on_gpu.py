"""Adapters on a GPU: answers are those of a CPU, with graphs and without, and the base's are as without adapters."""

import gc

import pytest
import torch
from golden_cases import CHECKPOINT, MEDIA

pytest.importorskip("peft")
from adapted_models import TEXT, Adapted

import mossvl
from mossvl import SamplingParams
from mossvl.device import executor

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

QUERIES = [
    {"prompt": "What is there?", "images": [str(MEDIA / "shapes.png")]},
    {"prompt": "Why?"},
    {"prompt": "And here?", "videos": [str(MEDIA / "clip_10fps_6s.mp4")], "media_kwargs": {"max_frames": 3}},
]
NAMES = [None, "one", "many", "merger"]
PARAMS = SamplingParams(max_new_tokens=12, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    adapters = Adapted(*mossvl.load(CHECKPOINT, device="cpu", dtype="float32"), tmp_path_factory.mktemp("adapters"))
    adapters.add("one", r=1)
    adapters.add("many", r=20, target_modules=["q_proj", "v_proj", "down_proj", "up_proj"])
    adapters.add("merger", target_modules=rf"{TEXT}|model\.visual\.merger\.linear_fc\d")
    return adapters


def answers(llm, names):
    handles = [
        llm.submit(query if name is None else {**query, "lora": name}, PARAMS) for query in QUERIES for name in names
    ]
    return [handle.result(120) for handle in handles]


@pytest.mark.parametrize("eager", [False, True], ids=["graphs", "eager"])
def test_answers_are_those_of_a_cpu(eager, adapters):
    with mossvl.MossVL(adapters.model, adapters.processor, memory=1 << 26, lora=adapters.folders) as llm:
        expected = answers(llm, NAMES)
    options = {"device": "cuda", "dtype": "float32", "memory": 1 << 28, "lora": adapters.folders, "eager": eager}
    with mossvl.MossVL(CHECKPOINT, **options) as llm:
        llm.warm_up()
        for _ in range(2):
            for found, one in zip(answers(llm, NAMES), expected, strict=True):
                assert found.token_ids == one.token_ids
                logprobs = [torch.tensor([token.logprob for token in result.logprobs]) for result in (found, one)]
                torch.testing.assert_close(*logprobs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("quantization", [None, "fp8", "int4", "nf4"])
def test_the_base_answers_as_without_adapters(quantization, adapters):
    options = {"device": "cuda", "memory": 1 << 28, "quantization": quantization}

    def alone(llm):
        """Answers of the base, one after the other: bfloat16 rounds in other ways beside other rows."""
        return [llm.submit(query, PARAMS).result(120).token_ids for query in QUERIES]

    with mossvl.MossVL(CHECKPOINT, **options) as llm:
        expected = alone(llm)
    with mossvl.MossVL(CHECKPOINT, **options, lora=adapters.folders) as llm:
        assert alone(llm) == expected
        answers(llm, NAMES)
        assert alone(llm) == expected


def test_memory_of_adapters_is_taken_before_pages_are_counted(adapters, monkeypatch):
    """All of it: as they are computed, all adapters have the highest rank among them."""
    taken, count = [], executor.count_pages

    def counted(*given):
        taken.append(torch.cuda.memory_allocated())
        return count(*given)

    monkeypatch.setattr(executor, "count_pages", counted)
    for lora in (None, adapters.folders):
        gc.collect()
        with mossvl.MossVL(CHECKPOINT, device="cuda", memory=1 << 28, lora=lora, eager=True) as llm:
            own = llm.engine.runner.executor
    stacks = own.stacks._stacks.values()
    assert taken[1] - taken[0] >= sum(one.down.nbytes + one.up.nbytes for one in stacks) > 0
