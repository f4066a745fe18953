"""Asking once more what a replica was asked when it died."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from mossvl.errors import ReplicaError
from mossvl.options import SamplingParams
from mossvl.queries.query import QueryLike
from mossvl.queries.results import Result

Asked = tuple[QueryLike, SamplingParams | None]
FEW = 16
"""Queries that each replica is asked at a time, of those of which one may have killed another replica."""


class Answering(Protocol):
    """What is needed of `MossVL`."""

    data_parallel_size: int

    def as_completed(self, queries: Iterable[Asked], most: int | None = None) -> Iterator[tuple[int, Result]]: ...


def as_completed(llm: Answering, queries: Iterable[Asked]) -> Iterator[tuple[int, Result]]:
    """Answer a stream of queries as `MossVL.as_completed` does, each once, also if its replica dies.

    A query whose replica has died is asked again after all others, beside a few of its kind; and if its replica dies
    then, too, alone. If it does even then, it was the query, and its ReplicaError is the result.
    """
    asked: dict[int, Asked] = {}

    def remembered() -> Iterator[Asked]:
        for number, query in enumerate(queries):
            asked[number] = query
            yield query

    lost: dict[int, Asked] = {}
    for number, result in llm.as_completed(remembered()):
        query = asked.pop(number)
        if isinstance(result.error, ReplicaError):
            lost[number] = query
        else:
            yield number, result
    for most in (FEW * llm.data_parallel_size, 1):
        again, lost = lost, {}
        numbers = list(again)
        for place, result in llm.as_completed(again.values(), most):
            number = numbers[place]
            if not isinstance(result.error, ReplicaError):
                yield number, result
            elif most > 1:
                lost[number] = again[number]
            else:
                yield number, lost_alone(result.error)


def lost_alone(error: ReplicaError) -> Result:
    """Return the result of a query whose replica has died again and again, with the error of the last time."""
    return Result.of_error(ReplicaError(f"{error.args[0]}, also when the query was asked alone"))
