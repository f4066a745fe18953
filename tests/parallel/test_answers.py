"""A model that is cut among processes answers like the whole one."""

import pytest
from cut_models import engine
from golden_cases import CASES, MEDIA

import mossvl
from mossvl import SamplingParams

QUERIES = [{**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()]
TEXTS = [case["text"] for case in CASES.values()]
SHAPES, CLIP = str(MEDIA / "shapes.png"), str(MEDIA / "clip_10fps_6s.mp4")
ASKED = [
    {"prompt": "Describe.", "images": [SHAPES, SHAPES]},
    {"prompt": "Count."},
    {"prompt": "And in this one?", "videos": [CLIP], "media_kwargs": {"max_frames": 5}},
]


def tokens(llm, queries, params=None):
    results = llm.generate(queries, params, progress=False)
    assert [result.error for result in results] == [None] * len(queries)
    return [result.token_ids for result in results]


def nothing_is_held(llm):
    llm.engine.cache.clear()
    return llm.engine.cache.num_free == llm.engine.cache.num_pages and llm.engine.media_budget.used == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"prefill_tokens": 16, "vision_patches": 64, "page_size": 4}, {"prefix_cache": False, "vision_cache": 0}],
    ids=["as it is", "small steps", "no caches"],
)
def test_two_ranks_give_the_golden_answers(halves, options):
    with engine(halves, **options) as llm:
        for _ in range(1 if options else 2):  # From caches, too.
            assert [one.text for one in llm.generate(QUERIES, progress=False)] == TEXTS
        assert nothing_is_held(llm)


def test_requests_that_are_preempted_are_answered_as_by_one_process(halves, make):
    long = [{**query, "generate_kwargs": {"max_new_tokens": 60, "ignore_eos": True}} for query in QUERIES[:6]]
    expected = tokens(make(), long)
    with engine(halves, page_size=4, memory=400_000) as llm:  # Pages of half the heads take half the memory.
        assert tokens(llm, long) == expected
        assert llm.engine.scheduler.preemptions
        assert nothing_is_held(llm)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.9, "seed": 3},
        {"repetition_penalty": 1.3, "min_tokens": 12},
        {"logit_bias": {7: 4.0, 500: 3.0}, "n": 3, "temperature": 1.0, "seed": 5},
    ],
    ids=["random", "penalties", "biases and siblings"],
)
def test_tokens_are_drawn_as_by_one_process(halves, make, params):
    given = SamplingParams(max_new_tokens=12, ignore_eos=True, **params)
    with engine(halves) as llm:
        cut = llm.generate(ASKED, given, progress=False)
    whole = make().generate(ASKED, given, progress=False)
    assert [one.token_ids for one in cut] == [one.token_ids for one in whole]
    assert [[other.text for other in one.answers] for one in cut] == [
        [other.text for other in one.answers] for one in whole
    ]


def test_log_probabilities_of_answers_and_prompts_are_those_of_one_process(halves, make):
    params = SamplingParams(max_new_tokens=6, logprobs=3, prompt_logprobs=2, ignore_eos=True)
    with engine(halves) as llm:
        cut = llm.generate(ASKED[2], params)
    whole = make().generate(ASKED[2], params)
    assert len(cut.logprobs) == 6 and len(cut.prompt_logprobs) > 20
    for one, other in zip(cut.logprobs, whole.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=2e-4)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]
    for one, other in zip(cut.prompt_logprobs[1:], whole.prompt_logprobs[1:], strict=True):
        assert {token: told.rank for token, told in one.items()} == {token: told.rank for token, told in other.items()}
        for token, told in one.items():
            assert told.logprob == pytest.approx(other[token].logprob, abs=2e-4)


def test_four_ranks_answer_like_one(quartered, quarters):
    model, processor = mossvl.load(quartered, "cpu", "float32")
    given = SamplingParams(max_new_tokens=12, ignore_eos=True, logprobs=1)
    whole = engine((model, processor)).generate(ASKED, given, progress=False)
    with engine(quarters) as llm:
        cut = llm.generate(ASKED, given, progress=False)
        again = llm.generate(ASKED, given, progress=False)
    assert [one.token_ids for one in cut] == [one.token_ids for one in again] == [one.token_ids for one in whole]
    for one, other in zip(cut, whole, strict=True):
        told = [token.logprob for token in one.logprobs]
        assert told == pytest.approx([token.logprob for token in other.logprobs], abs=2e-4)
