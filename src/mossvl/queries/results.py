"""What users get: answers, what they cost, how long they took, and what was seen."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of one token of an answer, before temperature and penalties."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """The likeliest tokens, best first."""


class Logprob(NamedTuple):
    """Of a token that could stand in a place of a prompt.

    Attributes:
        logprob: log-probability, natural.
        rank: 1 for the likeliest token of the place.
    """

    logprob: float
    rank: int


class Score(NamedTuple):
    """How likely a model finds a continuation of a query.

    Attributes:
        logprob: sum of the log-probabilities of its tokens.
        greedy: greedy decoding would have given these tokens.
        tokens: number of its tokens.
    """

    logprob: float
    greedy: bool
    tokens: int


@dataclass(frozen=True)
class Usage:
    """What a query cost, in tokens.

    Attributes:
        prompt_tokens: text of the prompt, one image token for every frame included.
        vision_tokens: beside the text, separators included.
        cached_tokens: of the prompt's text, those that did not have to be computed anew.
        new_tokens: of all answers.
    """

    prompt_tokens: int = 0
    vision_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds; None for what did not happen.

    Attributes:
        media: until all that had to be loaded before the start was there.
        queue: from then until the request was admitted.
        vision: that the encoding of frames took, together with those of other queries in the same steps.
        first_token: from the submission until the first token was known.
        per_token: between tokens, on average.
        total: from the submission to the end.
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
        model_width, model_height: pixels that the model saw.
        vision_tokens: separators included.
        timestamps: seconds of each frame that was seen; None for an image.
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
        finish_reason: "stop" (by itself, or at a stop text or token), "length", "cancelled" or "error".
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprobs] | None = None


@dataclass(frozen=True)
class Result:
    """Everything known about a query that has ended; `text`, `token_ids`, … are those of its first answer.

    Attributes:
        prompt_logprobs: for each token of the prompt (one image token for every frame), its `Logprob` and those of the
            `prompt_logprobs` likeliest tokens, by id; None for the first token, which nothing comes before, and where
            only a continuation is scored. None if not asked for.
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
        """Of a query that could not even be begun."""
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
