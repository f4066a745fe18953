"""Conversations whose next question a task derives from the answers so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mossvl.evaluation.lmms_eval.requests import messages_of, question_of
from mossvl.options import SamplingParams
from mossvl.processing.messages import Message
from mossvl.queries.query import QueryLike

Asked = tuple[QueryLike, SamplingParams]
"""A query, and how its answer is drawn."""


class Rounds(Protocol):
    """A conversation, round by round.

    Attributes:
        answers: of the rounds so far.
    """

    answers: list[str]
    params: SamplingParams

    def messages(self) -> list[Message]:
        """What is asked now."""
        ...

    def answered(self, text: str) -> None:
        """Take the answer to it."""
        ...

    def goes_on(self) -> bool:
        """Let the task derive the next question; False if there is none."""
        ...


class ChatRounds:
    """Of a task as messages: `to_messages(document, round_idx, previous_output, previous_round_info)` gives (messages,
    whether it is through, …, what it is given in the next round)."""

    def __init__(
        self, document: Mapping[str, Any], to_messages: Callable[..., Any], params: SamplingParams, clip_times: str
    ) -> None:
        self.document, self.to_messages, self.params, self.clip_times = document, to_messages, params, clip_times
        self.answers: list[str] = []
        self._now: Sequence[Mapping[str, Any]] = to_messages(document)
        self._information: Any = None

    def messages(self) -> list[Message]:
        return messages_of(self._now, self.clip_times)

    def answered(self, text: str) -> None:
        self.answers.append(text)

    def goes_on(self) -> bool:
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
    """Of a task as texts: `to_text(document, previous_output, round_idx, previous_round_info)` gives (visuals, text,
    whether it is through, the answers so far as the task keeps them, what it is given in the next round)."""

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

    def answered(self, text: str) -> None:
        self.answers.append(text)

    def goes_on(self) -> bool:
        visuals, text, through, answers, self._information = self.to_text(
            self.document,
            previous_output=list(self.answers),
            round_idx=len(self.answers),
            previous_round_info=self._information,
        )
        self._now, self.answers = (visuals, text), list(answers)
        return not through
