"""The reference implementation's answers, however the engine comes to them."""

import random

import pytest
from golden_cases import CASES

QUERIES = [{**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()]
TEXTS = [case["text"] for case in CASES.values()]


def answers(llm, queries):
    results = llm.generate(queries, progress=False)
    assert [result.error for result in results] == [None] * len(queries)
    return [result.text for result in results]


def nothing_is_held(llm):
    cache = llm.engine.cache
    cache.clear()
    return cache.num_free == cache.num_pages and llm.engine.media_budget.used == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prefix_cache": False, "vision_cache": 0, "media_cache": 0},
        {"prefill_tokens": 1, "mixed_prefill_tokens": 1, "vision_patches": 1, "mixed_vision_patches": 1},
        {"max_token_gap": 1e-9},
        {"page_size": 2},
        {"page_size": 128, "max_batch": 2},
        {"media_bytes": 1, "media_workers": 2},
    ],
    ids=[
        "as it is",
        "no caches",
        "one token a step",
        "no time for prompts",
        "small pages",
        "small batch",
        "no room for pixels",
    ],
)
def test_all_at_once_and_again(options, make):
    llm = make(**options)
    for _ in range(2):
        assert answers(llm, QUERIES) == TEXTS
    assert nothing_is_held(llm)


def test_one_at_a_time(llm):
    assert [answers(llm, [query])[0] for query in QUERIES] == TEXTS


@pytest.mark.parametrize("seed", range(3))
def test_in_any_order(seed, make):
    order = list(range(len(QUERIES))) * 2
    random.Random(seed).shuffle(order)
    llm = make(max_batch=5)
    assert answers(llm, [QUERIES[i] for i in order]) == [TEXTS[i] for i in order]


def test_with_so_few_pages_that_requests_are_preempted(make):
    long = [{**query, "generate_kwargs": {"max_new_tokens": 200, "ignore_eos": True}} for query in QUERIES[:6]]
    expected = answers(make(), long)
    llm = make(page_size=4, memory=700_000)
    assert answers(llm, long) == expected
    assert llm.engine.scheduler.preemptions >= len(long)
    assert nothing_is_held(llm)


def test_answers_do_not_depend_on_the_seed_of_hashes_or_on_what_ran_before(make):
    """Whatever is in the caches, an answer is the same."""
    llm = make()
    for query, text in zip(reversed(QUERIES), reversed(TEXTS), strict=True):
        media = {key: value for key, value in query.items() if key in ("images", "videos")}
        answers(llm, [{"prompt": "yes", "generate_kwargs": {"max_new_tokens": 2}, **media}])
        assert answers(llm, [query]) == [text]
