"""Log-probabilities of a step, told to the jobs that ask for them."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from mossvl.device.scores import Scores
from mossvl.engine.job import Job
from mossvl.queries.results import TokenLogprobs
from mossvl.scheduling.request import Request


def told_of(logprobs: Sequence[Any], row: int, token: int, wanted: int | None) -> TokenLogprobs | None:
    """Log-probabilities of a drawn token and its likeliest alternatives; `logprobs` are those of `Drawn`, as lists."""
    if wanted is None:
        return None
    own, best, ids = logprobs
    return TokenLogprobs(token, own[row], list(zip(ids[row][:wanted], best[row][:wanted], strict=True)))


def told_prompts(scored: Sequence[tuple[Request[Job], range]], scores: Scores) -> None:
    """Hand out log-probabilities of prompts' tokens, in the order of the requests' rows."""
    told = zip(*(part.tolist() for part in scores), strict=True)
    for request, rows in scored:
        for row, (logprob, rank, best, ids) in zip(rows, islice(told, len(rows)), strict=True):
            request.owner.tell_prompt(request, row + 1, logprob, rank, zip(ids, best, strict=True))
