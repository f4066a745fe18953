"""A model that is cut among two GPUs, with graphs and without them, against the golden answers and one GPU."""

import os
import signal

import pytest
import torch
from cut_models import random_checkpoint
from golden_cases import CASES, CHECKPOINT

import mossvl
from mossvl import SamplingParams
from mossvl.errors import EngineError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

QUERIES = [{**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()]
TEXTS = [case["text"] for case in CASES.values()]
ASKED = [{**query, "generate_kwargs": {"max_new_tokens": 40, "ignore_eos": True}} for query in QUERIES[:8]]


@pytest.fixture(scope="module")
def halves():
    model, processor = mossvl.load(CHECKPOINT, "cuda", "float32", tensor_parallel_size=2)
    yield model, processor
    model.ranks.close()


@pytest.mark.parametrize("options", [{}, {"eager": True}, {"prefill_tokens": 16, "vision_patches": 64}])
def test_golden_answers(halves, options):
    with mossvl.MossVL(*halves, memory=1 << 28, **options) as llm:
        for _ in range(2):
            assert [one.text for one in llm.generate(QUERIES, progress=False)] == TEXTS


def test_after_the_warm_up_all_steps_are_those_of_one_gpu(halves):
    whole = mossvl.MossVL(CHECKPOINT, device="cuda", dtype="float32", memory=1 << 28)
    params = SamplingParams(max_new_tokens=40, ignore_eos=True, temperature=0.9, seed=3, logprobs=2, prompt_logprobs=1)
    with mossvl.MossVL(*halves, memory=1 << 28) as llm:
        llm.warm_up()
        cut, same = (one.generate(ASKED, params, progress=False) for one in (llm, whole))
    assert [one.token_ids for one in cut] == [one.token_ids for one in same]
    for one, other in zip(cut, same, strict=True):
        told = [token.logprob for token in one.logprobs]
        assert told == pytest.approx([token.logprob for token in other.logprobs], abs=1e-3)


@pytest.mark.parametrize("kind", [None, "fp8", "int4", "nf4"])
def test_bfloat16_and_quantized_weights_answer_on_two_gpus(kind, tmp_path):
    """Rounding differs from that of one GPU: log-probabilities are near, tokens need not be the same."""
    folder, options = random_checkpoint(tmp_path), {"device": "cuda", "dtype": "bfloat16", "quantization": kind}
    params = SamplingParams(max_new_tokens=1, logprobs=0, prompt_logprobs=1)
    told = []
    for size in (1, 2):
        model, processor = mossvl.load(folder, **options, tensor_parallel_size=size)
        with mossvl.MossVL(model, processor, memory=1 << 28) as llm:
            results = llm.generate(ASKED, params, progress=False)
        assert [one.error for one in results] == [None] * len(ASKED)
        own = [next(iter(one.values())).logprob for result in results for one in result.prompt_logprobs[1:]]
        told.append(torch.tensor(own))
        if model.ranks is not None:
            model.ranks.close()
    assert (told[0] - told[1]).abs().mean() < 0.1


@pytest.mark.parametrize(("number", "told"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "hangs")])
def test_a_rank_that_is_lost_within_a_graph_ends_the_group(number, told):
    model, processor = mossvl.load(CHECKPOINT, "cuda", "float32", tensor_parallel_size=2)
    with mossvl.MossVL(model, processor, memory=1 << 28) as llm:
        llm.warm_up()
        handle = llm.submit("Count.", SamplingParams(max_new_tokens=100_000, ignore_eos=True))
        answer = iter(handle)
        next(answer)
        os.kill(model.ranks.processes._processes[0].process.pid, number)
        error = handle.wait(10).error
        assert isinstance(error, EngineError) and told in str(error)
    model.ranks.close()
    assert torch.ones(3, device="cuda").sum() == 3  # The device works on.
