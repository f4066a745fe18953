"""Biases of tokens and least lengths do what they say to their own answer, and nothing to others."""

from random import Random

import pytest
import torch

from mossvl import SamplingParams
from mossvl.errors import OptionError

QUESTION = "Say something."
FREE = [
    SamplingParams(max_new_tokens=40),
    SamplingParams(max_new_tokens=40, repetition_penalty=1.3),
    SamplingParams(max_new_tokens=40, temperature=1.0, seed=1),
    SamplingParams(max_new_tokens=40, temperature=0.8, top_p=0.9, seed=2),
    SamplingParams(max_new_tokens=40, frequency_penalty=1.0, ignore_eos=True),
    SamplingParams(max_new_tokens=40, regex="[a-z]{20}", seed=3),
    SamplingParams(max_new_tokens=40, ignore_eos=True, logprobs=2),
    SamplingParams(max_new_tokens=40, temperature=2.0, top_k=0, seed=4),
]


def tokens(result):
    return [answer.token_ids for answer in result.answers]


def test_a_token_with_a_large_bias_is_all_that_is_said_and_one_with_a_small_bias_never_is(llm):
    said = llm.generate(QUESTION, SamplingParams(max_new_tokens=8, logit_bias={70: 100}, ignore_eos=True))
    assert said.token_ids == [70] * 8
    first = llm.generate(QUESTION, SamplingParams(max_new_tokens=8, ignore_eos=True)).token_ids
    banned = dict.fromkeys(first, -100.0)
    other = llm.generate(QUESTION, SamplingParams(max_new_tokens=8, logit_bias=banned, ignore_eos=True)).token_ids
    assert not set(other) & set(first)


def test_a_bias_is_added_to_the_logits_before_penalties(llm, model):
    """Greedy answers beside a plain forward: the bias, then the repetition penalty."""
    rng = Random(0)
    for _ in range(4):
        bias = {rng.randrange(492): rng.uniform(-8, 8) for _ in range(200)}
        params = SamplingParams(max_new_tokens=6, logit_bias=bias, repetition_penalty=1.5, ignore_eos=True)
        result = llm.generate(QUESTION, params)
        prompt = llm.processor(result.input_text)["input_ids"][0].tolist()
        for count, token in enumerate(result.token_ids):
            ids = prompt + result.token_ids[:count]
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            for biased, value in bias.items():
                logits[biased] += value
            seen = torch.tensor(sorted(set(ids)))
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 1.5, logits[seen] * 1.5)
            assert token == logits.argmax()


def test_biases_and_least_lengths_change_nothing_for_eight_others(make):
    rng = Random(1)
    llm = make(max_batch=32)
    questions = [f"Question {number}?" for number in range(len(FREE))]
    expected = [tokens(llm.generate(query, params)) for query, params in zip(questions, FREE, strict=True)]
    beside = [
        SamplingParams(
            max_new_tokens=30,
            temperature=rng.choice([0.0, 1.0]),
            min_tokens=rng.randrange(30),
            logit_bias={rng.randrange(492): rng.uniform(-100, 100) for _ in range(rng.randrange(50))} or None,
            regex=rng.choice([None, "[a-c]{3}"]),
        )
        for _ in range(8)
    ]
    together = llm.generate([*questions, *["Say."] * 8], [*FREE, *beside])
    assert [tokens(result) for result in together[:8]] == expected
    assert all(result.error is None for result in together)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_answer_ends_before_its_least_length(llm, temperature):
    stops = tuple(range(400, 492))
    for least in (1, 2, 7):
        params = SamplingParams(
            max_new_tokens=12, min_tokens=least, stop_token_ids=stops, temperature=temperature, seed=least
        )
        answer = llm.generate(QUESTION, params)
        assert len(answer.token_ids) >= least
        assert not set(answer.token_ids) & set(stops)
    assert len(llm.generate(QUESTION, SamplingParams(max_new_tokens=12, stop_token_ids=stops)).token_ids) == 0


def test_the_models_own_end_comes_only_after_the_least_length(llm):
    (end,) = llm.engine.ends
    eager = {end: 100}
    for least in (0, 1, 5):
        answer = llm.generate(QUESTION, SamplingParams(max_new_tokens=9, min_tokens=least, logit_bias=eager))
        assert (len(answer.token_ids), answer.finish_reason) == (least, "stop")


def test_a_stop_text_within_the_least_length_is_said(llm):
    """The answer is `ab` again and again."""
    params = {"max_new_tokens": 12, "regex": "(ab){6}"}
    whole = llm.generate(QUESTION, SamplingParams(**params)).text
    assert llm.generate(QUESTION, SamplingParams(**params, stop="ab")).text == ""
    said = [llm.generate(QUESTION, SamplingParams(**params, stop="ab", min_tokens=least)) for least in range(9)]
    for least, answer in enumerate(said):
        written = llm.processor.tokenizer.decode(answer.token_ids)
        assert len(answer.token_ids) > least and whole.startswith(answer.text)
        assert answer.text == written[: written.rindex("ab")] and answer.finish_reason == "stop"


def test_a_form_that_is_complete_ends_before_the_least_length(llm):
    answer = llm.generate(QUESTION, SamplingParams(regex="abc", min_tokens=20, max_new_tokens=30))
    assert (answer.text, answer.finish_reason) == ("abc", "stop")


def test_a_token_that_the_model_does_not_know_has_no_bias_and_ends_no_answer(llm, model):
    known = model.config.text_config.vocab_size
    with pytest.raises(OptionError, match=f"the token {known}, but the model knows {known}"):
        llm.submit(QUESTION, SamplingParams(logit_bias={known: 1}))
    with pytest.raises(OptionError, match=f"^stop_token_ids has the token {known}, but") as refused:
        llm.submit(QUESTION, SamplingParams(stop_token_ids=(0, known)))
    assert refused.value.option == "stop_token_ids"
    llm.submit(QUESTION, SamplingParams(stop_token_ids=(known - 1,), max_new_tokens=1)).cancel()
    assert llm.generate(QUESTION, SamplingParams(logit_bias={known - 1: 1}, max_new_tokens=1)).error is None


def test_special_tokens_are_told_when_they_are_not_to_be_skipped(llm):
    (end,) = llm.engine.ends
    special = {"max_new_tokens": 3, "ignore_eos": True, "logit_bias": {end: 100}}
    name = llm.processor.tokenizer.convert_ids_to_tokens(end)
    assert llm.generate(QUESTION, SamplingParams(**special)).text == ""
    assert llm.generate(QUESTION, SamplingParams(**special, skip_special_tokens=False)).text == name * 3
    assert "".join(llm.stream(QUESTION, SamplingParams(**special, skip_special_tokens=False))) == name * 3
