"""Conversations of several rounds, whose next question a task derives from the answers so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mossvl.evaluation.lmms_eval.requests import messages_of, question_of
from mossvl.options import SamplingParams
from mossvl.processing.messages import Message
from mossvl.queries.query import QueryLike

Asked = tuple[QueryLike, SamplingParams]
"""A query, and the sampling parameters of its answer."""


class Rounds(Protocol):
    """A conversation, round by round.

    Attributes:
        answers: of the rounds so far.
    """

    answers: list[str]
    params: SamplingParams

    def messages(self) -> list[Message]:
        """Return the messages of the round's query."""
        ...

    def add_answer(self, text: str) -> None:
        """Add the round's answer."""
        ...

    def next_round(self) -> bool:
        """Have the task derive the next question; return False if there is none."""
        ...


class ChatRounds:
    """Rounds of a task as messages: `to_messages(document, round_idx, previous_output, previous_round_info)` returns
    (messages, whether the conversation has ended, …, `previous_round_info` of the next round)."""

    def __init__(
        self, document: Mapping[str, Any], to_messages: Callable[..., Any], params: SamplingParams, clip_times: str
    ) -> None:
        self.document, self.to_messages, self.params, self.clip_times = document, to_messages, params, clip_times
        self.answers: list[str] = []
        self._now: Sequence[Mapping[str, Any]] = to_messages(document)
        self._information: Any = None

    def messages(self) -> list[Message]:
        return messages_of(self._now, self.clip_times)

    def add_answer(self, text: str) -> None:
        self.answers.append(text)

    def next_round(self) -> bool:
        found = self.to_messages(
            self.document,
            round_idx=len(self.answers),
            previous_output=list(self.answers),
            previous_round_info=self._information,
        )
        if not (isinstance(found, tuple) and len(found) == 4) or found[1]:
            return False
        self._now, _, _, self._information = found
        return True


class SimpleRounds:
    """Rounds of a task as texts: `to_text(document, previous_output, round_idx, previous_round_info)` returns
    (visuals, text, whether the conversation has ended, the answers so far as the task keeps them, `previous_round_info`
    of the next round)."""

    def __init__(
        self,
        document: Mapping[str, Any],
        to_text: Callable[..., Any],
        visuals: Any,
        text: str,
        params: SamplingParams,
        clip_times: str,
    ) -> None:
        self.document, self.to_text, self.params, self.clip_times = document, to_text, params, clip_times
        self.answers: list[str] = []
        self._now = visuals, text
        self._information: Any = None

    def messages(self) -> list[Message]:
        return question_of(*self._now, self.clip_times)

    def add_answer(self, text: str) -> None:
        self.answers.append(text)

    def next_round(self) -> bool:
        visuals, text, ended, answers, self._information = self.to_text(
            self.document,
            previous_output=list(self.answers),
            round_idx=len(self.answers),
            previous_round_info=self._information,
        )
        self._now, self.answers = (visuals, text), list(answers)
        return not ended
