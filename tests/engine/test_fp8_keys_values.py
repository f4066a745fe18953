"""Keys and values in FP8: the same answers however they come about, in about half the memory."""

import pytest
import torch
from golden_cases import CASES

import mossvl
from mossvl.device.pool import FP8, PageLayout, key_scale
from mossvl.errors import OptionError
from mossvl.options.engine import EngineConfig

QUERIES = [case["query"] for case in CASES.values()]
CHOICES = [
    {"kv_cache_dtype": "fp8"},
    {"vision_kv_cache_dtype": "fp8"},
    {"kv_cache_dtype": "fp8", "vision_kv_cache_dtype": "auto", "page_size": 16},
]
NAMES = ["both", "vision", "text"]


def tokens(llm, queries=QUERIES, most=24):
    params = mossvl.SamplingParams(max_new_tokens=most, ignore_eos=True)
    return [result.token_ids for result in llm.generate(queries, params, progress=False)]


@pytest.mark.parametrize("chosen", CHOICES, ids=NAMES)
def test_answers_depend_on_neither_neighbours_nor_steps_nor_caches_nor_preemption(chosen, make):
    llm = make(**chosen)
    together = tokens(llm)
    assert together == tokens(llm), "from the prefix cache"
    assert [tokens(llm, [query])[0] for query in QUERIES[:4]] == together[:4]
    small = {"prefill_tokens": 1, "mixed_prefill_tokens": 1, "vision_patches": 1, "mixed_vision_patches": 1}
    assert tokens(make(prefix_cache=False, **chosen, **small)) == together
    few = make(**{"page_size": 4} | chosen, memory=250_000)
    assert tokens(few, QUERIES[:6], most=60) == tokens(make(**chosen), QUERIES[:6], most=60)
    assert few.engine.scheduler.preemptions


@pytest.mark.parametrize("chosen", CHOICES, ids=NAMES)
def test_log_probabilities_are_near_those_of_the_model_s_own_dtype(chosen, make):
    scored = mossvl.SamplingParams(max_new_tokens=1, logprobs=1, prompt_logprobs=0)
    exact, near = (make(**options).generate(QUERIES, scored, progress=False) for options in ({}, chosen))
    values = [
        torch.tensor(
            [score.logprob for result in results for step in result.prompt_logprobs if step for score in step.values()]
        )
        for results in (exact, near)
    ]
    differences = (values[0] - values[1]).abs()
    assert 0 < differences.mean() < 0.06 and differences.max() < 0.5


def test_all_the_same_pages_hold_more_tokens(golden):
    llm = {
        name: mossvl.MossVL(golden / "checkpoint", device="cpu", dtype="bfloat16", memory=1 << 20, **options)
        for name, options in zip(["none", *NAMES], [{}, *CHOICES], strict=True)
    }
    pages = {name: (one.engine.cache.num_pages, one.engine.runner.executor.pool) for name, one in llm.items()}
    assert pages["both"][0] > 1.7 * pages["none"][0]
    assert pages["vision"][1].vision_page_size == 2 * pages["vision"][1].page_size
    assert pages["text"][1].vision_page_size == pages["text"][1].page_size // 2
    for number, pool in pages.values():
        assert pool.bytes <= 1 << 20 and pool.bytes == number * (pool.bytes // number)


def test_no_key_is_beyond_the_scale(make):
    llm = make(kv_cache_dtype="fp8")
    torch.manual_seed(0)
    for layer in llm.model.model.language_model.layers:
        attn = getattr(layer, "self_attn", None) or layer.cross_attn
        scale = key_scale(attn)
        d = attn.head_dim
        keys = torch.cat((torch.randn(200, d), 100 * torch.eye(d)))
        normed = attn.k_norm(keys)
        pairs = normed.unflatten(1, (2, d // 2)).norm(dim=1)  # what a rotation may make of one dimension
        assert pairs.max() <= scale * torch.finfo(FP8).max * 1.001


def test_a_page_too_small_for_a_vision_token_is_refused():
    config = EngineConfig(page_size=1, kv_cache_dtype="fp8", vision_kv_cache_dtype="auto")
    with pytest.raises(OptionError, match="page_size=1"):
        PageLayout.of(config, torch.bfloat16)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(OptionError, match="kv_cache_dtype='int8' must be 'auto' or 'fp8'"):
        EngineConfig(kv_cache_dtype="int8")
