"""Queries of the published methods, with flags for their session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mossvl.errors import GenerationCancelled, OptionError
from mossvl.queries.query import Message, Query
from mossvl.queries.results import Result

CONTROLS = frozenset({"cancel_current_generate", "stop_generation", "stop_offline_generate"})
"""Keys of control messages of the queue protocol; other methods ignore them."""
FLAGS = {
    "reset_session": False,
    "clear_history": False,
    "persist_session": True,
    "append_messages_to_session": False,
    "persist_cancelled_turn": False,
    "stream_output": False,
    "stream": False,
}


@dataclass(frozen=True)
class SessionQuery(Query):
    """A query with flags for its session.

    Attributes:
        reset_session: drop the session's earlier messages.
        persist_session: append the turn and its answer to the session.
        append_messages_to_session: let `messages` continue the session instead of standing alone.
        persist_cancelled_turn: append the turn even if it was cancelled.
        stream: send the answer in chunks (queue protocol only).
    """

    reset_session: bool
    persist_session: bool
    append_messages_to_session: bool
    persist_cancelled_turn: bool
    stream: bool

    @classmethod
    def for_text(cls, given: Any, **generation_defaults: Any) -> Self:
        """Check a query like `from_dict`, and refuse options that need more than one text for each query."""
        query = cls.from_dict(given, **generation_defaults)
        if query.tools is not None:
            raise OptionError("the offline methods have no tools; use mossvl.MossVL")
        more = query.generation.logprobs is not None or query.generation.prompt_logprobs is not None
        if query.generation.n != 1 or more:
            raise OptionError(
                "the offline methods give one text a query; for n, logprobs and prompt_logprobs use mossvl.MossVL"
            )
        return query

    @classmethod
    def keys(cls) -> frozenset[str]:
        return super().keys() | FLAGS.keys() | CONTROLS

    @classmethod
    def own_fields(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        flags = {name: given.get(name, default) for name, default in FLAGS.items()}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise OptionError(f"{{{name}=}} must be true or false", given={name: value})
        return {
            "reset_session": flags["reset_session"] or flags["clear_history"],
            "persist_session": flags["persist_session"],
            "append_messages_to_session": flags["append_messages_to_session"],
            "persist_cancelled_turn": flags["persist_cancelled_turn"],
            "stream": flags["stream_output"] or flags["stream"],
        }

    @property
    def stands_alone(self) -> bool:
        return self.reset_session or (self.explicit and not self.append_messages_to_session)

    def session_after(self, session: Sequence[Message], answer: str | None) -> list[Message]:
        return super().session_after(session, answer if self.persist_session else None)

    def session_after_result(self, session: Sequence[Message], result: Result) -> list[Message]:
        """Return the session after the query has ended.

        A query that failed leaves it unchanged, and so does one that was cancelled, unless `persist_cancelled_turn`.
        """
        cancelled = isinstance(result.error, GenerationCancelled)
        kept = result.error is None or (cancelled and self.persist_cancelled_turn)
        return self.session_after(session, result.text if kept else None)
