"""Queries as the published methods take them: with words for the session that they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mossvl.errors import OptionError
from mossvl.queries.query import Message, Query

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
    """A query, and what it does with its session.

    Attributes:
        reset_session: the session's earlier messages are forgotten.
        persist_session: its turn and answer join the session.
        append_messages_to_session: `messages` continue the session instead of standing alone.
        persist_cancelled_turn: the turn joins the session although it was cancelled.
        stream: the queue protocol gives its answer in pieces.
    """

    reset_session: bool
    persist_session: bool
    append_messages_to_session: bool
    persist_cancelled_turn: bool
    stream: bool

    @classmethod
    def for_text(cls, given: Any, **generation_defaults: Any) -> Self:
        """As `from_dict`, for the methods that give one text for each query."""
        query = cls.from_dict(given, **generation_defaults)
        if query.generation.n != 1 or query.generation.logprobs is not None:
            raise OptionError("the offline methods give one text a query; for n and logprobs use mossvl.MossVL")
        return query

    @classmethod
    def keys(cls) -> frozenset[str]:
        return super().keys() | FLAGS.keys() | CONTROLS

    @classmethod
    def own_fields(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        flags = {name: given.get(name, default) for name, default in FLAGS.items()}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise OptionError(f"{name}={value!r} must be true or false")
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
