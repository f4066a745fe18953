"""Tokens are drawn as they should be, each row with its own parameters."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mossvl import SamplingParams
from mossvl.engine.sampler import NOT_A_NUMBER, Sampler, uniform

VOCAB = 64


def request(number, slot=0, prompt=(1, 2), answer=(), seed=0, **params):
    """What a sampler looks at of a request."""
    return SimpleNamespace(
        number=number,
        slot=slot,
        preemptions=0,
        seed=seed,
        params=SamplingParams(**params),
        prompt=SimpleNamespace(tokens=list(prompt)),
        tokens=[*prompt, *answer],
        num_answer=len(answer),
        in_flight=0,
        matcher=None,
    )


@pytest.fixture
def sampler():
    return Sampler(VOCAB, 16, torch.device("cpu"))


def possible(sampler, logits, **params):
    """Which tokens are drawn, with many seeds."""
    rows = [request(i, i % 16, seed=i, **params) for i in range(2000)]
    return set(sampler.draw(logits.expand(2000, -1), rows).tokens.tolist())


warped = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.5, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 3, 10, 64]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 0.05]),
        "min_p": st.sampled_from([0.0, 0.1, 0.6]),
    }
)


@given(params=warped, seed=st.integers(0, 1000))
def test_tokens_come_from_the_set_that_transformers_leaves(params, seed):
    sampler = Sampler(VOCAB, 16, torch.device("cpu"))
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params["temperature"])])
    if params["top_k"]:
        warpers.append(TopKLogitsWarper(params["top_k"]))
    if params["top_p"] < 1:
        warpers.append(TopPLogitsWarper(params["top_p"]))
    if params["min_p"]:
        warpers.append(MinPLogitsWarper(params["min_p"]))
    left = warpers(torch.zeros(1, 0, dtype=torch.long), logits[None])[0]
    rows = [request(i, i % 16, seed=i, **params) for i in range(200)]
    drawn = sampler.draw(logits.expand(200, -1), rows).tokens
    assert left[drawn].isfinite().all()


def test_frequencies_are_the_probabilities(sampler):
    logits = torch.tensor([0.0, 1.0, 2.0] + [-torch.inf] * (VOCAB - 3))
    rows = [request(i, i % 16, seed=i, temperature=1.0, top_k=0) for i in range(20_000)]
    drawn = sampler.draw(logits.expand(20_000, -1), rows).tokens
    shares = torch.bincount(drawn, minlength=3)[:3] / 20_000
    torch.testing.assert_close(shares, logits[:3].softmax(0), atol=0.015, rtol=0)


def test_what_is_drawn_depends_on_nothing_beside(sampler):
    logits = torch.randn(5, VOCAB)
    rows = [request(i, i, answer=[3] * i, seed=100 + i, temperature=1.5, top_k=0) for i in range(5)]
    together = sampler.draw(logits, rows).tokens
    alone = [Sampler(VOCAB, 16, torch.device("cpu")).draw(logits[i : i + 1], rows[i : i + 1]).tokens for i in range(5)]
    reverse = sampler.draw(logits.flip(0), rows[::-1]).tokens
    assert together.tolist() == torch.cat(alone).tolist() == reverse.flip(0).tolist()


def test_greedy_and_random_rows_share_a_step(sampler):
    logits = torch.randn(3, VOCAB)
    rows = [request(0, 0), request(1, 1, temperature=3.0, top_k=0, seed=5), request(2, 2, temperature=5.0, top_k=1)]
    tokens = sampler.draw(logits, rows).tokens
    assert tokens[0] == logits[0].argmax() and tokens[2] == logits[2].argmax()


def test_a_repetition_penalty_counts_prompt_and_answer(sampler):
    logits = torch.tensor([[0.0, 1.5, 1.6, 1.7, -1.0, *[-9.0] * (VOCAB - 5)]])
    row = request(0, prompt=[3], answer=[2], repetition_penalty=2.0)
    assert sampler.draw(logits, [row]).tokens.tolist() == [1]
    expected = RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[3, 2]]), logits.clone())
    torch.testing.assert_close(
        sampler._penalised(logits, [request(1, prompt=[3], answer=[2], repetition_penalty=2.0)]), expected
    )


def test_presence_and_frequency_count_the_answer_alone(sampler):
    logits = torch.zeros(1, VOCAB)
    row = request(0, prompt=[3], answer=[2, 2, 5], presence_penalty=0.5, frequency_penalty=0.25)
    scores = sampler._penalised(logits, [row])[0]
    assert scores[2] == -1.0 and scores[5] == -0.75 and scores[3] == 0 and scores[0] == 0


def test_penalties_follow_what_was_drawn_and_forget_who_was_there_before(sampler):
    logits = torch.tensor([[2.0, 1.9, 1.8, *[-9.0] * (VOCAB - 3)]])
    row = request(0, prompt=[9], presence_penalty=1.0)
    drawn = []
    for _ in range(3):
        drawn += sampler.draw(logits, [row]).tokens.tolist()
    assert drawn == [0, 1, 2]
    assert sampler.draw(logits, [request(1, prompt=[9], presence_penalty=1.0)]).tokens.tolist() == [0]


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.5}])
def test_logits_that_are_no_numbers_are_told(params, sampler):
    logits = torch.randn(2, VOCAB)
    logits[1, 7] = torch.nan
    tokens = sampler.draw(logits, [request(0, 0, **params), request(1, 1, **params)]).tokens.tolist()
    assert tokens[0] != NOT_A_NUMBER and tokens[1] == NOT_A_NUMBER


def test_noise_is_even():
    tokens = torch.arange(100_000)
    for seed in (0, 1, 2**62 + 12345):
        numbers = uniform(torch.tensor(seed), torch.tensor(3), tokens)
        assert numbers.min() > 0 and numbers.max() < 1
        counts = torch.histc(numbers, 50, 0, 1)
        assert (counts - 2000).abs().max() < 250
    first, second = (uniform(torch.tensor(s), torch.tensor(0), tokens) for s in (1, 2))
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 0.02
