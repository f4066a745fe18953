"""Stored responses, which later requests continue; limited in number, size and age."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mossvl.server.errors import RequestError
from mossvl.server.keeping import Kept, Store

Messages = Sequence[dict[str, Any]]


@dataclass(kw_only=True)
class StoredResponse(Kept):
    """A response and what it adds to its conversation.

    Attributes:
        content: the response as its client got it.
        messages: chat messages of its input and output, without instructions.
        previous: id of the response that it continues.
    """

    content: dict[str, Any]
    messages: Messages
    previous: str | None


class StoredResponses(Store[StoredResponse]):
    """Responses, in memory or in a folder that processes share."""

    name = "responses"

    def restored(self, fields: dict[str, Any]) -> StoredResponse:
        return StoredResponse(**fields)

    def missing(self, id: str, param: str | None) -> RequestError:
        return RequestError(
            404,
            "response_not_found",
            f"there is no stored response {id!r:.80}: it was never stored, was deleted, or was removed for its age "
            "(--response-seconds) or for others (--response-space, --max-responses); send the whole input",
            param,
        )

    def conversation(self, owner: str, response_id: str, param: str) -> list[dict[str, Any]]:
        """Return the messages of a response and of all that it continues, oldest first.

        Raises:
            RequestError: one of them is not stored any more.
        """
        chain: list[StoredResponse] = []
        following: str | None = response_id
        while following is not None:
            chain.append(self.get(owner, following, param))
            following = chain[-1].previous
        return [message for one in reversed(chain) for message in one.messages]


def size_of(value: Any) -> int:
    """Return the bytes of memory that a JSON value takes.

    Raises:
        TypeError: the value is none, and may hold what is not counted.
    """
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner = [*value, *value.values()]
    elif isinstance(value, list | tuple):
        inner = list(value)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{type(value).__name__} is no type of JSON values")
    return sys.getsizeof(value) + sum(map(size_of, inner))
