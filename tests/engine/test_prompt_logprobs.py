"""Log-probabilities of prompts are those of a plain forward, whatever the caches have."""

import math
from pathlib import Path
from random import Random

import pytest
import torch

from mossvl import SamplingParams
from mossvl.errors import OptionError
from mossvl.evaluation.scoring import score

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP = {
    "prompt": "When does it appear? " * 12,
    "videos": [str(EXAMPLES / "clip.mp4")],
    "media_kwargs": {"max_frames": 4},
}
PICTURE = {"prompt": "What is it?", "images": [str(EXAMPLES / "shapes.png")], "media_kwargs": {"max_pixels": 8192}}
TEXT = {"prompt": "The quick brown fox jumps over the lazy dog. " * 15}
QUERIES = [CLIP, PICTURE, TEXT]


def plain(llm, query, continuation=""):
    """Ids (tokens,), and log-probabilities (tokens - 1, vocab) of a plain forward of a query's prompt."""
    images, videos = query.get("images"), query.get("videos")
    parts = [{"type": "image", "image": one} for one in images or []]
    parts += [{"type": "video", "video": one} for one in videos or []]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": query["prompt"]}]}]
    text = llm.processor.render(messages) + continuation
    inputs = llm.processor(text, images=images, videos=videos, **query.get("media_kwargs", {}))
    with torch.inference_mode():
        logits = llm.model(**inputs).logits[0]
    return inputs["input_ids"][0], logits.float().log_softmax(-1)[:-1]


def check(llm, query, told, most):
    ids, expected = plain(llm, query)
    assert len(told) == len(ids) and told[0] is None
    for place, one in enumerate(told[1:], 1):
        (token, own), scores = next(iter(one.items())), expected[place - 1]
        assert token == ids[place]
        assert own.logprob == pytest.approx(scores[token].item(), abs=1e-4)
        assert own.rank == pytest.approx(1 + (scores > scores[token]).sum().item(), abs=1)
        likeliest = scores.topk(most).indices.tolist()
        assert set(one) >= {*likeliest[:-1], token} and most <= len(one) <= most + 1
        assert [other for other in one if other in likeliest and other != token] == [
            other for other in likeliest if other in one and other != token
        ]


def test_log_probabilities_of_prompts_are_those_of_a_plain_forward(llm):
    for query in QUERIES:
        for most in (0, 3):
            result = llm.generate(query, SamplingParams(max_new_tokens=2, prompt_logprobs=most))
            check(llm, query, result.prompt_logprobs, max(most, 1)) if most else None
            own = [next(iter(one.values())).logprob for one in result.prompt_logprobs[1:]]
            ids, expected = plain(llm, query)
            torch.testing.assert_close(
                torch.tensor(own), expected.gather(1, ids[1:, None])[:, 0].cpu(), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("options", [{}, {"prefill_tokens": 7}, {"page_size": 16}])
def test_neither_cached_prefixes_nor_small_steps_change_them(make, options):
    llm = make(**options)
    params = SamplingParams(max_new_tokens=30, prompt_logprobs=2, ignore_eos=True)
    free = SamplingParams(max_new_tokens=30, ignore_eos=True)
    first = llm.generate(QUERIES, free)
    again = llm.generate([*QUERIES * 2], [*[params] * 3, *[free] * 3])
    for query, result, before in zip(QUERIES, again, first, strict=False):
        check(llm, query, result.prompt_logprobs, 2)
        assert result.token_ids == before.token_ids
        assert result.usage.cached_tokens == 0
    assert all(result.prompt_logprobs is None for result in again[3:])


def test_requests_that_are_preempted_have_them_all(make):
    llm = make(memory=1 << 19, max_batch=4, prefill_tokens=24, prefix_cache=False)
    queries = [{"prompt": f"{number} " * 40} for number in range(6)]
    results = llm.generate(queries, SamplingParams(max_new_tokens=90, prompt_logprobs=2, ignore_eos=True))
    assert llm.engine.scheduler.preemptions
    for query, result in zip(queries, results, strict=True):
        check(llm, query, result.prompt_logprobs, 2)


def test_several_answers_have_the_log_probabilities_of_one_prompt(llm):
    result = llm.generate(TEXT, SamplingParams(n=3, max_new_tokens=3, prompt_logprobs=1, temperature=1.0))
    check(llm, TEXT, result.prompt_logprobs, 1)


# --- continuations ---------------------------------------------------------------------------------------------------


def test_a_continuation_has_the_sum_of_its_tokens_log_probabilities(llm):
    rng = Random(2)
    texts = ["".join(rng.choices("abc de.\n", k=rng.randrange(1, 30))) for _ in range(4)]
    for query in (CLIP, TEXT):
        told = score(llm, [query] * 4, texts)
        for text, one in zip(texts, told, strict=True):
            ids, expected = plain(llm, query, text)
            count = len(llm.processor.tokenizer(text)["input_ids"])
            if ids[-count:].tolist() != llm.processor.tokenizer(text)["input_ids"]:
                continue  # Tokenised with the prompt, the text has other tokens.
            own = expected.gather(1, ids[1:, None])[-count:, 0]
            assert one.logprob == pytest.approx(own.sum().item(), abs=1e-3) and one.tokens == count
            assert one.greedy == (expected[-count:].argmax(-1) == ids[-count:].to(expected.device)).all()


def test_what_greedy_decoding_says_is_greedy_and_nothing_else_is(llm):
    queries = [*QUERIES, *[{"prompt": f"Question {number}?"} for number in range(12)]]
    said = llm.generate(queries, SamplingParams(max_new_tokens=2, ignore_eos=True))
    same = [
        (query, one.text)
        for query, one in zip(queries, said, strict=True)
        if one.text and llm.processor.continuation(one.text).tolist() == one.token_ids
    ]
    assert len(same) > 2
    kept, texts = zip(*same, strict=True)
    assert all(one.greedy for one in score(llm, kept, texts))
    assert not any(one.greedy for one in score(llm, kept, [text + "~~~" for text in texts]))
    assert not any(one.greedy for one in score(llm, kept, ["~" + text for text in texts]))


def test_the_prompt_of_several_continuations_is_computed_once(llm):
    score(llm, [TEXT] * 4, ["A", "B", "C", "D"])
    before = llm.generate(TEXT, SamplingParams(max_new_tokens=1)).usage
    assert before.cached_tokens > before.prompt_tokens - 64
    told = score(llm, [TEXT], ["A"])
    fresh = llm.generate("Another question.", SamplingParams(max_new_tokens=1))
    assert told[0].tokens == 1 and math.isfinite(told[0].logprob) and fresh.error is None


@pytest.mark.parametrize(("given", "message"), [([""], "not empty"), ([5], "must be a text"), (["a", "b"], "2 contin")])
def test_what_is_no_continuation_is_refused(llm, given, message):
    with pytest.raises(OptionError, match=message):
        score(llm, [TEXT], given)
