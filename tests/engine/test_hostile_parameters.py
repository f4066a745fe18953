"""Whatever parameters a request brings, it costs nobody else a token."""

import math
from dataclasses import fields
from random import Random

import pytest
import torch

from mossvl import SamplingParams
from mossvl.errors import InputError, MossVLError

HUGE = (2**31, 2**63 - 1, 2**63, 2**64, 10**400)
NUMBERS = (
    0,
    -1,
    1,
    2,
    5,
    0.5,
    -0.5,
    1e-320,
    1e-9,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
    *HUGE,
    *(-one for one in HUGE),
)
NONSENSE = (None, True, "1", "", b"1", [], {}, [1], (2,), object(), torch.tensor(1), torch.tensor([1.0, 2.0]))
EXTREMES = {
    "stop": ("a", ("",), ["\ud800"], ("x" * 100_000,), ["a"] * 1000, [1]),
    "stop_token_ids": ((0,), (2**70,), [-1], (1.5,), tuple(range(5000))),
    "json_schema": (
        {"type": "object"},
        {"type": "integer"},
        "{",
        {"$ref": "#"},
        {"type": "none"},
        [],
        {"const": 10**5000},
    ),
    "regex": ("[ab]{3}", "(", "", "a*", "\ud800", "(?=a)b", "[^\\s\\S]", "((a{1000}){1000}){1000}"),
}
USUAL = {
    "max_new_tokens": (1, 3, 30),
    "temperature": (0.0, 0.7, 1.0, 2.0),
    "top_k": (0, -1, 1, 50),
    "top_p": (1.0, 0.9, 0.1),
    "min_p": (0.0, 0.1),
    "repetition_penalty": (1.0, 1.3),
    "presence_penalty": (0.0, 2.0, -2.0),
    "frequency_penalty": (0.0, 2.0, -2.0),
    "seed": (None, 0, 7),
    "logprobs": (None, 0, 20),
    "n": (1, 2, 4),
}
NAMES = [option.name for option in fields(SamplingParams)]


def hostile(rng):
    """Some parameters, a few of them extreme, of the wrong kind, or exclusive of each other."""
    given = {"max_new_tokens": rng.randrange(1, 12)}
    for name in rng.sample(NAMES, rng.randrange(1, 6)):
        kinds = [USUAL.get(name, NUMBERS), EXTREMES.get(name, NUMBERS), NONSENSE]
        given[name] = rng.choice(rng.choices(kinds, (4, 4, 1))[0])
    return given


INNOCENT = [
    SamplingParams(max_new_tokens=64, ignore_eos=True),
    SamplingParams(max_new_tokens=64, ignore_eos=True, repetition_penalty=1.2, logprobs=3),
    SamplingParams(max_new_tokens=64, ignore_eos=True, temperature=1.0, seed=3),
    SamplingParams(max_new_tokens=64, ignore_eos=True, temperature=0.9, top_k=5, top_p=0.9, min_p=0.01, seed=4),
    SamplingParams(max_new_tokens=64, ignore_eos=True, temperature=2.0, presence_penalty=0.5, seed=5),
    SamplingParams(max_new_tokens=64, ignore_eos=True, temperature=1.0, frequency_penalty=1.0, seed=6),
    SamplingParams(max_new_tokens=60, regex="[a-z]{40}", temperature=1.0, seed=7),
    SamplingParams(max_new_tokens=64, ignore_eos=True, n=2, temperature=1.0, seed=8),
]


def tokens(result):
    return [answer.token_ids for answer in result.answers]


@pytest.mark.parametrize("seed", range(3))
def test_parameters_of_all_kinds_leave_eight_others_their_tokens(seed, make):
    rng = Random(seed)
    llm = make(max_batch=32)
    queries = [f"Question {number}?" for number in range(len(INNOCENT))]
    expected = [tokens(llm.generate(query, params)) for query, params in zip(queries, INNOCENT, strict=True)]
    beside = [llm.submit(query, params) for query, params in zip(queries, INNOCENT, strict=True)]
    taken, refused = [], 0
    while not all(one.ended for one in beside) and len(taken) + refused < 2000:
        given = hostile(rng)
        try:
            taken.append(llm.submit("Say it.", SamplingParams(**given)))
            if rng.random() < 0.2:
                taken[-1].cancel()
        except InputError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{given} raised {type(error).__name__}") from error
        while sum(not one.ended for one in taken) > 12:
            next(one for one in taken if not one.ended).cancel()
    assert [tokens(one.result(120)) for one in beside] == expected
    for handle in taken:
        handle.cancel()
        error = handle.wait(60).error
        assert error is None or isinstance(error, MossVLError)
    assert len(taken) > 5 and refused > 5
    assert llm.engine.broken is None
