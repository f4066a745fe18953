"""Conversations of several rounds, whose next question a task derives from the answers so far.

Between rounds, a conversation keeps its answers and what the task notes, but not its document: the documents of all
conversations, with their decoded visuals, would not fit into memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from mossvl.evaluation.lmms_eval.requests import messages_of, question_of
from mossvl.options import SamplingParams
from mossvl.processing.messages import Message
from mossvl.queries.query import QueryLike

Asked = tuple[QueryLike, SamplingParams]
"""A query, and the sampling parameters of its answer."""


class Rounds(ABC):
    """A conversation, round by round.

    Args:
        document: reads the document.
        derive: the task's function; see `ChatRounds` and `SimpleRounds`.
        generation: the task's `generation_kwargs`.
        clip_times: see `Arguments`.

    Attributes:
        answers: of the rounds so far; the caller adds each.
        ended: whether the task has ended the conversation.
    """

    def __init__(
        self,
        document: Callable[[], Mapping[str, Any]],
        derive: Callable[..., Any],
        generation: Mapping[str, Any],
        clip_times: str,
    ) -> None:
        self.document, self.derive, self.generation, self.clip_times = document, derive, generation, clip_times
        self.answers: list[str] = []
        self.ended = False
        self._begun = False
        self._information: Any = None

    def next_messages(self) -> list[Message] | None:
        """Return the messages of the next round's query; None if the task ends the conversation.

        Raises:
            PromptError: as `messages_of`; the conversation goes on.
        """
        document = self.document()
        if not self._begun:
            self._begun = True
            return self._first(document)
        return self._next(
            document,
            round_idx=len(self.answers),
            previous_output=list(self.answers),
            previous_round_info=self._information,
        )

    @abstractmethod
    def _first(self, document: Mapping[str, Any]) -> list[Message]:
        """Return the messages of the first round."""

    @abstractmethod
    def _next(self, document: Mapping[str, Any], **so_far: Any) -> list[Message] | None:
        """Return the messages of a later round; None if the task ends the conversation."""


class ChatRounds(Rounds):
    """Rounds of a task as messages: `derive(document, round_idx, previous_output, previous_round_info)` returns
    (messages, whether the conversation has ended, …, `previous_round_info` of the next round)."""

    def _first(self, document: Mapping[str, Any]) -> list[Message]:
        return messages_of(self.derive(document), self.clip_times)

    def _next(self, document: Mapping[str, Any], **so_far: Any) -> list[Message] | None:
        found = self.derive(document, **so_far)
        if not (isinstance(found, tuple) and len(found) == 4) or found[1]:
            self.ended = True
            return None
        messages, _, _, self._information = found
        return messages_of(messages, self.clip_times)


class SimpleRounds(Rounds):
    """Rounds of a task as texts: `derive(document, previous_output, round_idx, previous_round_info)` returns
    (visuals, text, whether the conversation has ended, the answers so far as the task keeps them, `previous_round_info`
    of the next round). The first question has the visuals of `to_visual(document)` and `text`."""

    def __init__(
        self,
        document: Callable[[], Mapping[str, Any]],
        derive: Callable[..., Any],
        to_visual: Callable[[Mapping[str, Any]], Any],
        text: str,
        generation: Mapping[str, Any],
        clip_times: str,
    ) -> None:
        super().__init__(document, derive, generation, clip_times)
        self.to_visual, self.text = to_visual, text

    def _first(self, document: Mapping[str, Any]) -> list[Message]:
        return question_of(self.to_visual(document), self.text, self.clip_times)

    def _next(self, document: Mapping[str, Any], **so_far: Any) -> list[Message] | None:
        visuals, text, self.ended, answers, self._information = self.derive(document, **so_far)
        self.answers = list(answers)
        return None if self.ended else question_of(visuals, text, self.clip_times)
