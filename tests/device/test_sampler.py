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
from mossvl.device.sampler import NOT_A_NUMBER, Sampler, uniform
from mossvl.scheduling.request import Request, Spared

VOCAB = 64


class Drawing(SimpleNamespace):
    num_drawn = Request.num_drawn


def request(number, slot=0, prompt=(1, 2), answer=(), seed=0, **params):
    """What a sampler looks at of a request."""
    return Drawing(
        number=number,
        slot=slot,
        preemptions=0,
        turns=0,
        seed=seed,
        params=SamplingParams(**params),
        context=SimpleNamespace(prompts=[SimpleNamespace(tokens=list(prompt))], answer=list(answer)),
        num_answer=len(answer),
        in_flight=0,
        matcher=None,
        spared=None,
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


@pytest.mark.parametrize("top_k", [0, 1025, 1500])
def test_many_candidates_are_drawn_from_as_few_are(top_k):
    """Half of a vocabulary of 3000 is likely; the rest is hardly ever drawn, and never beyond `top_k`."""
    logits = torch.cat((torch.zeros(1500), torch.full((1500,), -3.0)))[torch.randperm(3000)]
    rows = [request(i, i % 16, seed=i, temperature=1.0, top_k=top_k) for i in range(1000)]
    drawn = Sampler(3000, 16, torch.device("cpu")).draw(logits.expand(1000, -1), rows).tokens
    likely = logits[drawn] == 0
    assert likely.all() if top_k else 900 < likely.sum() < 1000
    assert len(set(drawn.tolist())) > 600


def test_rows_of_a_step_have_each_their_own_bounds(sampler):
    logits = torch.tensor([0.5, 0.3, 0.2] + [0.0] * (VOCAB - 3)).log()
    bounds = [{"top_k": 1}, {"top_k": 2}, {"top_k": 3}, {"top_p": 0.4}, {"top_p": 0.7}, {"min_p": 0.5}, {"min_p": 0.7}]
    rows = [request(i, i % 16, seed=i, **{"temperature": 1.0, "top_k": 0, **bounds[i % 7]}) for i in range(1400)]
    drawn = sampler.draw(logits.expand(1400, -1), rows).tokens
    assert [set(drawn[kind::7].tolist()) for kind in range(7)] == [{0}, {0, 1}, {0, 1, 2}, {0}, {0, 1}, {0, 1}, {0}]


def test_bounds_are_met_exactly():
    one, other = (Sampler(VOCAB, 16, torch.device("cpu")) for _ in range(2))
    even = torch.tensor([0.0, 0.0] + [-torch.inf] * (VOCAB - 2))
    assert len(possible(one, even, temperature=1.0, top_k=0, top_p=0.5)) == 1
    assert possible(other, even, temperature=1.0, top_k=0, min_p=1.0) == {0, 1}


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


def test_a_token_in_flight_counts_as_one_that_is_known(sampler):
    """The next step is drawn before the last one is known."""
    logits = torch.zeros(8, VOCAB)
    known = [request(i, i, answer=[3], seed=i, temperature=1.0, top_k=0) for i in range(8)]
    flying = [request(i, i, seed=i, temperature=1.0, top_k=0) for i in range(8)]
    for one in flying:
        one.in_flight = 1
    first, second = (Sampler(VOCAB, 16, torch.device("cpu")).draw(logits, rows).tokens for rows in (known, flying))
    assert first.tolist() == second.tolist()
    assert first.tolist() != sampler.draw(logits, [request(8 + i, i, seed=i, temperature=1.0) for i in range(8)]).tokens


def test_greedy_and_random_rows_share_a_step(sampler):
    logits = torch.randn(3, VOCAB)
    rows = [request(0, 0), request(1, 1, temperature=3.0, top_k=0, seed=5), request(2, 2, temperature=5.0, top_k=1)]
    tokens = sampler.draw(logits, rows).tokens
    assert tokens[0] == logits[0].argmax() and tokens[2] == logits[2].argmax()


def test_penalties_count_what_a_request_is_asked_later_and_not_what_it_has_forgotten(sampler):
    logits = torch.linspace(1, 2, VOCAB)[None]
    asked = request(1, prompt=(1, 2), repetition_penalty=100.0, frequency_penalty=1.0)
    best = VOCAB - 1
    assert sampler.draw(logits, [asked]).tokens.tolist() == [best]
    assert sampler.draw(logits, [asked]).tokens.tolist() == [best - 1]  # Both are in flight, and then forgotten.
    extend(asked, [best - 1])
    assert sampler.draw(logits, [asked]).tokens.tolist() == [best]


def extend(request, prompt):
    request.turns += 1
    request.context.prompts.append(SimpleNamespace(tokens=prompt))


turns = st.lists(
    st.tuples(st.lists(st.integers(0, 7), max_size=3), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5
)


@given(turns=turns, spares=st.booleans())
def test_what_is_counted_turn_by_turn_is_what_is_counted_at_once(turns, spares):
    """Of what is drawn in a turn, the last tokens may be dropped, more than are remembered, too."""
    sampler = Sampler(VOCAB, 16, torch.device("cpu"))
    logits = torch.linspace(1, 1.2, VOCAB)[None]
    asked = request(1, prompt=(9,), repetition_penalty=1.3, presence_penalty=0.1, frequency_penalty=0.2)
    asked.spared = Spared(frozenset({3, 4, VOCAB - 1, VOCAB - 2}), 3, 4) if spares else None
    for prompt, draws, dropped in turns:
        extend(asked, prompt)
        drawn = [sampler.draw(logits, [asked]).tokens.item() for _ in range(draws)]
        asked.context.answer += drawn[: max(0, draws - dropped)]
    extend(asked, [5])
    again = request(2, 1, prompt=(9,), answer=asked.context.answer, **vars(asked.params))
    again.spared, again.context = asked.spared, asked.context
    torch.testing.assert_close(
        sampler.penalties.apply(logits, [asked]), sampler.penalties.apply(logits, [again]), rtol=0, atol=0
    )


def test_a_turn_counts_only_what_is_new(sampler):
    class Unread:
        """An answer of which only the length is looked at."""

        def __len__(self):
            return 3

    logits = torch.linspace(1, 2, VOCAB)[None]
    asked = request(1, prompt=(1, 2), repetition_penalty=2.0)
    for _ in range(3):
        sampler.draw(logits, [asked])
    asked.context.prompts[0], asked.context.answer = SimpleNamespace(), Unread()
    extend(asked, [7])
    penalised = sampler.penalties.apply(logits, [asked])
    assert (penalised < logits)[0].nonzero()[:, 0].tolist() == [1, 2, 7, VOCAB - 3, VOCAB - 2, VOCAB - 1]


def test_a_repetition_penalty_counts_prompt_and_answer(sampler):
    logits = torch.tensor([[0.0, 1.5, 1.6, 1.7, -1.0, *[-9.0] * (VOCAB - 5)]])
    row = request(0, prompt=[3], answer=[2], repetition_penalty=2.0)
    assert sampler.draw(logits, [row]).tokens.tolist() == [1]
    expected = RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[3, 2]]), logits.clone())
    torch.testing.assert_close(
        sampler.penalties.apply(logits, [request(1, prompt=[3], answer=[2], repetition_penalty=2.0)]), expected
    )


def test_a_repetition_penalty_makes_every_seen_token_less_likely(sampler):
    logits = torch.linspace(-2, 2, VOCAB)[None]
    penalised = sampler.penalties.apply(
        logits, [request(0, prompt=range(0, VOCAB, 2), answer=[1, 3], repetition_penalty=1.7)]
    )
    seen = torch.tensor([[*range(0, VOCAB, 2), 1, 3]])
    torch.testing.assert_close(penalised, RepetitionPenaltyLogitsProcessor(1.7)(seen, logits.clone()))
    assert (penalised[0, seen[0]] < logits[0, seen[0]]).all()


def test_penalties_of_one_row_are_not_those_of_another(sampler):
    """Also where a row without any comes first, and in the last place of the batch, which nobody has."""
    logits = torch.tensor([2.0, 1.0, 0.5] + [-9.0] * (VOCAB - 3)).expand(3, -1)
    rows = [
        request(0, 3, answer=[0]),
        request(1, 5, answer=[0, 0], frequency_penalty=0.6),
        request(2, 16, answer=[0, 1], presence_penalty=1.8),
    ]
    assert sampler.draw(logits, rows).tokens.tolist() == [0, 1, 2]


def test_a_token_is_counted_as_often_as_it_is_drawn(sampler):
    logits = torch.tensor([[10.0, 9.0, *[-9.0] * (VOCAB - 2)]])
    row = request(0, frequency_penalty=0.4, prompt=[5])
    assert [sampler.draw(logits, [row]).tokens.item() for _ in range(7)] == [0, 0, 0, 1, 0, 1, 0]


def test_presence_and_frequency_count_the_answer_alone(sampler):
    logits = torch.zeros(1, VOCAB)
    row = request(0, prompt=[3], answer=[2, 2, 5], presence_penalty=0.5, frequency_penalty=0.25)
    penalised = sampler.penalties.apply(logits, [row])[0]
    assert penalised[2] == -1.0 and penalised[5] == -0.75 and penalised[3] == 0 and penalised[0] == 0


def test_penalties_follow_what_was_drawn_and_forget_who_was_there_before(sampler):
    logits = torch.tensor([[2.0, 1.9, 1.8, *[-9.0] * (VOCAB - 3)]])
    row = request(0, prompt=[9], presence_penalty=1.0)
    drawn = []
    for _ in range(3):
        drawn += sampler.draw(logits, [row]).tokens.tolist()
    assert drawn == [0, 1, 2]
    assert sampler.draw(logits, [request(1, prompt=[9], presence_penalty=1.0)]).tokens.tolist() == [0]


def test_a_token_that_is_drawn_in_vain_is_forgotten_and_those_of_others_are_not(sampler):
    logits = torch.tensor([[2.0, 1.9, *[-9.0] * (VOCAB - 2)]]).expand(2, -1)
    rows = [request(number, slot=3 + number, prompt=[9], presence_penalty=1.0) for number in range(2)]
    assert sampler.draw(logits, rows).tokens.tolist() == [0, 0]
    sampler.forget(rows[0])
    sampler.forget(request(7, slot=9))  # has never drawn
    assert sampler.draw(logits, rows).tokens.tolist() == [0, 1]


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.5}])
def test_logits_that_are_no_numbers_are_told(params, sampler):
    logits = torch.randn(2, VOCAB)
    logits[1, 7] = torch.nan
    tokens = sampler.draw(logits, [request(0, 0, **params), request(1, 1, **params)]).tokens.tolist()
    assert tokens[0] >= 0 > tokens[1] == NOT_A_NUMBER


# --- forms -----------------------------------------------------------------------------------------------------------


def allowing(*tokens):
    """Stands for the matcher of a form that goes on with one of these tokens."""
    bits = sum(1 << token for token in tokens)
    return SimpleNamespace(mask=bits.to_bytes(VOCAB // 8 + 4, "little"))


@pytest.mark.parametrize("params", [{}, {"temperature": 2.0, "top_k": 0}, {"presence_penalty": 0.5}])
def test_a_form_allows_its_row_what_it_allows_and_changes_nothing_for_others(params, sampler):
    logits = torch.linspace(3, -3, VOCAB).expand(4, -1)
    free = sampler.draw(logits, [request(i, i, seed=i, **params) for i in range(4)]).tokens.tolist()
    rows = [request(4 + i, i, seed=i, **params) for i in range(4)]
    rows[1].matcher, rows[3].matcher = allowing(20, 63), allowing(41)
    tokens = sampler.draw(logits, rows).tokens.tolist()
    assert tokens[::2] == free[::2]
    assert tokens[1] in (20, 63) and tokens[3] == 41
    if params.get("temperature", 0) == 0:
        assert tokens[1] == 20


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_form_and_a_penalty_of_one_row_both_count(sampler):
    logits = torch.tensor([[9.0, 1.5, 2.0, *[-9.0] * (VOCAB - 3)]])
    row = request(0, prompt=[5], answer=[2], repetition_penalty=2.0)
    row.matcher = allowing(1, 2)
    assert sampler.draw(logits, [row]).tokens.tolist() == [1]


def test_the_first_token_of_all_has_its_own_log_probability(sampler):
    logits = torch.tensor([[5.0, 1.0, *[-9.0] * (VOCAB - 2)]])
    drawn = sampler.draw(logits, [request(0, logprobs=1)])
    assert drawn.tokens.tolist() == [0]
    assert drawn.logprobs.own.tolist() == [logits.log_softmax(-1)[0, 0]]


def test_log_probabilities_are_the_models_own(sampler):
    logits = torch.randn(4, VOCAB)
    logits[3, 0] = torch.nan
    rows = [
        request(0, 0, logprobs=0),
        request(1, 1, temperature=2.0, logprobs=3, answer=[5], repetition_penalty=1.5),
        request(2, 2, presence_penalty=1.0),
        request(3, 3, logprobs=1),
    ]
    drawn = sampler.draw(logits, rows)
    own, best, ids = drawn.logprobs
    expected = logits.log_softmax(-1)
    assert own[:3].tolist() == [expected[row, token] for row, token in enumerate(drawn.tokens[:3])]
    assert best.shape == ids.shape == (4, 3)
    for row in range(3):
        assert best[row].tolist() == expected[row].sort(descending=True).values[:3].tolist()
        assert expected[row, ids[row]].tolist() == best[row].tolist()


def test_as_many_alternatives_are_told_as_anybody_wants_and_one_at_least(sampler):
    logits = torch.randn(2, VOCAB)
    for wanted, told in ((0, 1), (1, 1), (5, 5)):
        rows = [request(0, 0, logprobs=wanted), request(1, 1)]
        assert sampler.draw(logits, rows).logprobs.best.shape == (2, told)
    assert sampler.draw(logits, [request(0, 0), request(1, 1)]).logprobs is None


# --- chance ----------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_answers_in_every_version():
    seeds = torch.tensor([0, 1, 2**40 + 5, 2**62 + 12345])
    drawn = uniform(seeds, torch.tensor([0, 1, 7, 1000]), torch.tensor([0, 1, 151_935, 42]))
    assert drawn.dtype == torch.float64
    assert (drawn * 2**33).tolist() == [2655973475, 6325450881, 1070946917, 8195360539]


def test_noise_is_even():
    tokens = torch.arange(100_000)
    for seed in (0, 1, 2**62 + 12345):
        numbers = uniform(torch.tensor(seed), torch.tensor(3), tokens)
        assert numbers.min() > 0 and numbers.max() < 1
        counts = torch.histc(numbers, 50, 0, 1)
        assert (counts - 2000).abs().max() < 250
    first, second = (uniform(torch.tensor(s), torch.tensor(0), tokens) for s in (1, 2))
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 0.02
