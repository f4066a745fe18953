"""Asking and scoring: the same for benchmarks, for training, and for the examples."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

from mossvl.llm import MossVL
from mossvl.options import SamplingParams
from mossvl.queries.query import Message


class Task(Protocol):
    """Something to be found out in one query, or in several that follow from each other."""

    @property
    def name(self) -> str:
        """What its scores are counted under; many tasks may have the same."""
        ...

    def query(self, answers: Sequence[str]) -> Mapping[str, Any] | None:
        """The query that comes after so many answers, as `MossVL.submit` takes it; None where it is through."""
        ...

    def score(self, answers: Sequence[str]) -> float:
        """What the last of the answers is worth, from 0 to 1."""
        ...


@dataclass(frozen=True)
class ExactAnswers:
    """A conversation, each of whose answers is right if it is the expected text; questions follow on the model's own.

    Attributes:
        questions: messages of the user.
        answers: what is expected, as many.
        options: what a query has beside its messages, as `media_kwargs`.
    """

    name: str
    questions: Sequence[Message]
    answers: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)

    def query(self, answers: Sequence[str]) -> dict[str, Any] | None:
        if len(answers) == len(self.questions):
            return None
        said = [{"role": "assistant", "content": answer} for answer in answers]
        before = [message for turn in zip(self.questions, said, strict=False) for message in turn]
        return {**self.options, "messages": [*before, self.questions[len(answers)]]}

    def score(self, answers: Sequence[str]) -> float:
        return float(answers[-1] == self.answers[len(answers) - 1])


class Tally(NamedTuple):
    """Several answers' scores together: their sum, and how many they are."""

    total: float
    answers: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Self:
        return cls(sum(scores), len(scores))

    @property
    def mean(self) -> float:
        """0 where there are none."""
        return self.total / max(self.answers, 1)


def ask(llm: MossVL, tasks: Sequence[Task], params: SamplingParams | None = None) -> Iterator[tuple[str, float]]:
    """Ask the first queries of all tasks together, then the second ones, and so on.

    Args:
        params: in place of the queries' own `generate_kwargs`.

    Yields:
        the name of the task and the score, of each answer.

    Raises:
        MossVLError: a query cannot be answered.
    """
    begun: list[tuple[Task, list[str]]] = [(task, []) for task in tasks]
    while True:
        asked = [(*one, query) for one in begun if (query := one[0].query(one[1])) is not None]
        if not asked:
            return
        results = llm.generate([query for _, _, query in asked], params, raise_on_error=True)
        for (task, answers, _), result in zip(asked, results, strict=True):
            answers.append(result.text)
            yield task.name, task.score(answers)
        begun = [(task, answers) for task, answers, _ in asked]


def tallied(scored: Iterable[tuple[str, float]]) -> dict[str, Tally]:
    """Scores by name, in the order in which names come first."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for name, score in scored:
        scores[name].append(score)
    return {name: Tally.of(own) for name, own in scores.items()}
