"""Results of queries: answers, token counts, timings, media."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of one token of an answer, before temperature and penalties."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """(token, log-probability) of the likeliest tokens, the likeliest first."""


class Logprob(NamedTuple):
    """Log-probability and rank of one token at one position of a prompt.

    Attributes:
        logprob: natural log-probability.
        rank: 1 for the likeliest token of the position.
    """

    logprob: float
    rank: int


class Score(NamedTuple):
    """How likely a model finds a continuation of a query.

    Attributes:
        logprob: sum of the log-probabilities of the continuation's tokens.
        greedy: whether greedy decoding would give these tokens.
        tokens: number of these tokens.
    """

    logprob: float
    greedy: bool
    tokens: int


@dataclass(frozen=True)
class Usage:
    """Token counts of a query.

    Attributes:
        prompt_tokens: text tokens of the prompt, including an image token for each frame.
        vision_tokens: vision tokens, including separators; not part of `prompt_tokens`.
        cached_tokens: prompt tokens that the prefix cache had.
        new_tokens: tokens of all answers.
    """

    prompt_tokens: int = 0
    vision_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Durations in seconds; None for what did not happen.

    Attributes:
        media: from submission until enough media were loaded for the scheduler.
        queue: from then until admission.
        vision: encoding of frames, including those of other queries in the same steps.
        first_token: from submission until the first token.
        per_token: mean time between tokens.
        total: from submission to the end.
    """

    media: float | None = None
    queue: float | None = None
    vision: float | None = None
    first_token: float | None = None
    per_token: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class SeenMedium:
    """An image, a video or a segment of one, as the model saw it.

    Attributes:
        kind: "image" or "video".
        width, height: pixels of the original.
        model_width, model_height: pixels after resizing.
        vision_tokens: vision tokens, including separators.
        timestamps: of the sampled frames, in seconds; None for an image.
    """

    kind: str
    width: int
    height: int
    model_width: int
    model_height: int
    vision_tokens: int
    timestamps: tuple[float, ...] | None


@dataclass(frozen=True)
class Answer:
    """One of the answers to a query.

    Attributes:
        finish_reason: "stop" (an end token, stop string or stop token), "length", "cancelled" or "error".
        logprobs: of each token; None unless the query asked for them.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprobs] | None = None


@dataclass(frozen=True)
class Result:
    """The result of a query; `text`, `token_ids`, … are those of its first answer.

    Attributes:
        prompt_logprobs: for each token of the prompt (including an image token for each frame), the `Logprob` of the
            token and of the `prompt_logprobs` likeliest tokens, by id; None for the first token, and for tokens before
            a scored continuation. None unless the query asked for them.
    """

    answers: list[Answer]
    usage: Usage
    timings: Timings
    media: list[SeenMedium]
    input_text: str
    error: Exception | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    @classmethod
    def of_error(cls, error: Exception) -> "Result":
        """Return the result of a query that was refused."""
        return cls([Answer("", [], "error")], Usage(), Timings(), [], "", error)

    @property
    def text(self) -> str:
        return self.answers[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.answers[0].token_ids

    @property
    def finish_reason(self) -> str:
        return self.answers[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        return self.answers[0].logprobs
