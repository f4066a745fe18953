"""Tasks, and their asking and scoring, for benchmarks, training and the examples."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

from mossvl.llm import MossVL
from mossvl.options import SamplingParams
from mossvl.queries.query import Message


class Task(Protocol):
    """One query, or a sequence of queries that may depend on earlier answers, and the scores of the answers."""

    @property
    def name(self) -> str:
        """The name under which scores are tallied; several tasks may share it."""
        ...

    def query(self, answers: Sequence[str]) -> Mapping[str, Any] | None:
        """The query after these answers, as `MossVL.submit` takes it; None if the task is finished."""
        ...

    def score(self, answers: Sequence[str]) -> float:
        """The score of the last of these answers, from 0 to 1."""
        ...


@dataclass(frozen=True)
class ExactAnswers:
    """A task of exact match: a conversation in which each question follows the model's own answers.

    Attributes:
        questions: messages of the user.
        answers: the expected text for each question.
        others: further right texts for each question; by default, none.
        options: keys of the queries beside `messages`, such as `media_kwargs`.
    """

    name: str
    questions: Sequence[Message]
    answers: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    others: Sequence[Sequence[str]] = ()

    def query(self, answers: Sequence[str]) -> dict[str, Any] | None:
        if len(answers) == len(self.questions):
            return None
        said = [{"role": "assistant", "content": answer} for answer in answers]
        before = [message for turn in zip(self.questions, said, strict=False) for message in turn]
        return {**self.options, "messages": [*before, self.questions[len(answers)]]}

    def score(self, answers: Sequence[str]) -> float:
        number = len(answers) - 1
        others = self.others[number] if self.others else ()
        return float(answers[-1] in (self.answers[number], *others))


class Tally(NamedTuple):
    """The sum of several scores, and their number."""

    total: float
    answers: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Self:
        return cls(sum(scores), len(scores))

    @property
    def mean(self) -> float:
        """The mean score; 0 without answers."""
        return self.total / max(self.answers, 1)


def ask(llm: MossVL, tasks: Sequence[Task], params: SamplingParams | None = None) -> Iterator[tuple[str, float]]:
    """Ask the first queries of all tasks as one batch, then the second queries, and so on.

    Args:
        params: replaces the queries' own `generate_kwargs`.

    Yields:
        (name of the task, score) of each answer.

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
    """Tallies by name, in the order in which the names first appear."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for name, score in scored:
        scores[name].append(score)
    return {name: Tally.of(own) for name, own in scores.items()}
