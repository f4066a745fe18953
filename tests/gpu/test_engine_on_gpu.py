"""The engine on a GPU: the golden answers, graphs against eager steps, and the published size against a plain pass."""

import gc
import os
import re
import resource
from dataclasses import replace

import pytest
import torch
from golden_cases import CASES

import mossvl
from mossvl.bench.prompts import IMAGE, SMALL_IMAGE, VIDEO_64, RandomPrompt, random_pixels
from mossvl.engine.engine import Engine
from mossvl.loading import random_model
from mossvl.options import GenerationOptions

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

QUERIES = [{**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()]
TOKENS = [case["text"] for case in CASES.values()]
SMALL_STEPS = {"prefill_tokens": 7, "mixed_prefill_tokens": 3, "vision_patches": 1, "mixed_vision_patches": 1}


@pytest.fixture(scope="module")
def on_gpu(golden):
    return mossvl.load(golden / "checkpoint", device="cuda", dtype="float32")


@pytest.mark.parametrize(
    "options",
    [{}, {"eager": True}, SMALL_STEPS, {"prefix_cache": False, "vision_cache": 0}, {"page_size": 16, "max_batch": 3}],
    ids=["graphs", "eager", "small steps", "no caches", "small batch"],
)
def test_golden_answers(options, on_gpu):
    llm = mossvl.MossVL(*on_gpu, memory=1 << 28, **options)
    for _ in range(2):
        assert [result.text for result in llm.generate(QUERIES, progress=False)] == TOKENS
    assert llm.engine.cache.available == llm.engine.cache.num_pages


def test_golden_answers_when_pages_are_few(on_gpu):
    llm = mossvl.MossVL(*on_gpu, memory=1 << 22)
    assert [result.text for result in llm.generate(QUERIES, progress=False)] == TOKENS


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_golden_answers_on_another_gpu(golden):
    llm = mossvl.MossVL(golden / "checkpoint", device="cuda:1", dtype="float32", memory=1 << 28)
    llm.warm_up()
    for _ in range(2):
        assert [result.text for result in llm.generate(QUERIES, progress=False)] == TOKENS
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("params", [{"temperature": 0.9, "seed": 3, "top_k": 0}, {"repetition_penalty": 1.3}])
def test_no_token_differs_between_graphs_and_eager_steps(params, on_gpu):
    answers = []
    for eager in (True, False):
        llm = mossvl.MossVL(*on_gpu, memory=1 << 28, eager=eager)
        results = llm.generate(QUERIES, mossvl.SamplingParams(max_new_tokens=24, **params), progress=False)
        answers.append([result.token_ids for result in results])
    assert answers[0] == answers[1]


def test_answers_keep_their_form_beside_others(on_gpu):
    llm = mossvl.MossVL(*on_gpu, memory=1 << 28)
    formed = mossvl.SamplingParams(regex="[0-9]{24}", temperature=1.0, seed=1, max_new_tokens=48)
    params = [mossvl.SamplingParams(max_new_tokens=case["max_new_tokens"]) for case in CASES.values()]
    queries = ["Say a number."] * 3 + QUERIES
    results = llm.generate(queries, [formed] * 3 + params, progress=False)
    assert all(re.fullmatch("[0-9]{24}", result.text) for result in results[:3])
    assert [result.text for result in results[3:]] == TOKENS


def scores(answer):
    """Tokens and log-probabilities of the prompt and of the answer, as pairs."""
    steps = [step for step in answer.prompt_logprobs or [] if step]
    prompt = [(token, score.logprob) for step in steps for token, score in step.items()]
    own = [pair for step in answer.logprobs or [] for pair in step.top]
    return prompt + own


END = 482
STEERED = {
    "bias": {"logit_bias": {65: 100.0, 66: 99.5, 10: -100.0}, "repetition_penalty": 1.5},
    "least length": {"logit_bias": {END: 100.0}, "min_tokens": 12},
    "scores": {"prompt_logprobs": 3, "logprobs": 2},
    "all, sampled": {
        "logit_bias": {65: 4.0, END: 8.0},
        "min_tokens": 8,
        "prompt_logprobs": 2,
        "temperature": 0.8,
        "seed": 5,
    },
}


@pytest.mark.parametrize("params", STEERED.values(), ids=STEERED.keys())
def test_steered_and_scored_answers_are_those_of_a_cpu(params, golden, on_gpu):
    sampling = mossvl.SamplingParams(max_new_tokens=16, **params)
    on_cpu = mossvl.MossVL(golden / "checkpoint", device="cpu", dtype="float32", memory=1 << 28)
    expected = on_cpu.generate(QUERIES, sampling, progress=False)
    results = mossvl.MossVL(*on_gpu, memory=1 << 28).generate(QUERIES, sampling, progress=False)
    assert [result.token_ids for result in results] == [result.token_ids for result in expected]
    for result, other in zip(results, expected, strict=True):
        assert [token for token, _ in scores(result)] == [token for token, _ in scores(other)]
        assert [value for _, value in scores(result)] == pytest.approx([value for _, value in scores(other)], abs=1e-3)


@pytest.fixture(scope="module")
def large():
    model = random_model(device="cuda", dtype="bfloat16")
    yield model
    del model
    gc.collect()
    torch.cuda.empty_cache()


@torch.inference_mode()
@pytest.mark.parametrize("shape", [IMAGE, VIDEO_64], ids=["image", "64 frames"])
def test_logits_at_the_published_size(shape, large, monkeypatch):
    """A prompt and eight tokens: logits of every step against one plain pass over all of them, in bfloat16."""
    gc.collect()
    torch.cuda.empty_cache()
    engine = Engine(large, mossvl.EngineConfig(memory=float(4 << 30)))
    logits = []
    compute = engine.runner.executor.compute

    def computing(rows):
        outputs = compute(rows)
        if rows.draw_rows:
            logits.append(outputs[0].float().clone())
        return outputs

    monkeypatch.setattr(engine.runner.executor, "compute", computing)
    prompt = RandomPrompt.new(shape, large.config, random_pixels(shape))
    result = engine.begin(prompt, GenerationOptions(max_new_tokens=8, ignore_eos=True)).wait()
    ids = torch.cat((prompt.input_ids, torch.tensor(result.token_ids[:-1])))
    pixels = torch.cat(prompt.pixels).cuda().bfloat16() / 255 * 2 - 1
    grid = torch.tensor([[shape.frames, shape.rows, shape.columns]])
    plain = large(input_ids=ids[None].cuda(), pixel_values=pixels, grid_thw=grid, logits_to_keep=8).logits[0].float()
    own = torch.cat(logits[:8])
    error = ((own - plain).norm() / plain.norm()).item()
    print(f"\n{shape.name}: engine against plain pass, bf16: {error:.2e}")
    assert error < 3e-2
    engine.close()


def memory_in_use():
    """MiB: of the GPU, allocated and reserved, and of this process, at most so far; and its open files."""
    gc.collect()
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpu = torch.cuda.memory_allocated() / 2**20, torch.cuda.memory_reserved() / 2**20
    return *gpu, host, len(os.listdir("/proc/self/fd"))


def test_a_thousand_images_leave_memory_where_it_was_after_fifty(large):
    """Images of seven sizes, ever other pixels, one after the other; the caches are small and soon full."""
    engine = Engine(large, mossvl.EngineConfig(memory=float(4 << 30), vision_cache=8 << 20))
    measured = []
    for number in range(1000):
        shape = replace(SMALL_IMAGE, columns=8 + 2 * (number % 7))
        prompt = RandomPrompt.new(shape, large.config, random_pixels(shape))
        assert engine.begin(prompt, GenerationOptions(max_new_tokens=4, ignore_eos=True)).wait().token_ids
        if number in (49, 999):
            measured.append(memory_in_use())
    print(f"\nafter 50 and 1,000 images: {[tuple(round(one) for one in figures) for figures in measured]}")
    allowed = 4, 32, 32, 0
    for after_50, after_1000, more in zip(measured[0], measured[-1], allowed, strict=True):
        assert after_1000 <= after_50 + more
    engine.close()
