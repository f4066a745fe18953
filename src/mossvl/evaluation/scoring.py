"""Scores of given answers, as multiple-choice benchmarks ask for them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mossvl.errors import InputError, OptionError
from mossvl.llm import MossVL
from mossvl.offline.query import SessionQuery
from mossvl.options import SamplingParams
from mossvl.queries.query import Query, QueryLike
from mossvl.queries.results import Result, Score

SCORING = SamplingParams(max_new_tokens=1, prompt_logprobs=0)


def score(
    llm: MossVL, queries: Iterable[QueryLike], continuations: Iterable[str], progress: bool | None = None
) -> list[Score]:
    """Find out how likely texts are as answers, or as their beginnings.

    A continuation's tokens follow those of the prompt, and are tokenised apart from it, as those of an answer are.
    Special tokens are removed from it. The prefix cache serves the several continuations of one query.

    Args:
        queries, continuations: as many of each; a query may come several times.
        progress: as for `MossVL.generate`.

    Returns:
        for each query, the `Score` of its continuation.

    Raises:
        OptionError: a continuation is no text or has no token, or there are not as many of them as queries.
        MossVLError: a query cannot be answered.
    """
    given = [continued(llm, query, continuation) for query, continuation in _pairs(queries, continuations)]
    return [score_of(result) for result in llm.generate(given, SCORING, progress=progress, raise_on_error=True)]


def _pairs(queries: Iterable[QueryLike], continuations: Iterable[str]) -> Iterator[tuple[QueryLike, str]]:
    queries, continuations = list(queries), list(continuations)
    if len(queries) != len(continuations):
        raise OptionError(f"{len(continuations)} continuations are given for {len(queries)} queries; give one for each")
    return zip(queries, continuations, strict=True)


def continued(llm: MossVL, query: QueryLike, continuation: str) -> Query:
    """A query with a continuation, to be asked with `SCORING`.

    Raises:
        OptionError: the continuation is no text or has no token.
        InputError: the query is malformed.
    """
    if not isinstance(continuation, str) or not len(llm.processor.continuation(continuation)):
        raise OptionError("{continuation=} must be a text, and not empty", given={"continuation": continuation})
    if isinstance(query, InputError):
        raise query
    return replace(query if isinstance(query, Query) else SessionQuery.from_dict(query), continuation=continuation)


def score_of(result: Result) -> Score:
    """The score of what was asked with `SCORING`: the continuation's tokens alone have log-probabilities."""
    told = [next(iter(one.values())) for one in result.prompt_logprobs or () if one is not None]
    return Score(sum(one.logprob for one in told), all(one.rank == 1 for one in told), len(told))
