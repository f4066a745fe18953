"""Stored responses, which later requests continue; limited in number, size and age."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mossvl.server.errors import RequestError

Messages = Sequence[dict[str, Any]]


@dataclass
class StoredResponse:
    """A response and what it adds to its conversation.

    Attributes:
        key: stands for the API key that alone may use it.
        content: the response as its client got it.
        messages: chat messages of its input and output, without instructions.
        previous: id of the response that it continues.
        size: bytes.
        used: Unix time of its last use, in seconds.
    """

    key: str
    content: dict[str, Any]
    messages: Messages
    previous: str | None
    size: int
    used: float


class StoredResponses:
    """Responses in memory.

    Args:
        count, space: most responses, and most bytes of all together; the least recently used are removed first.
        seconds: how long a response is kept after its last use.
    """

    def __init__(self, count: int, space: int, seconds: float) -> None:
        self.count, self.space, self.seconds = count, space, seconds
        self._responses: dict[str, StoredResponse] = {}
        self._size = 0
        self._lock = threading.Lock()

    def keep(self, key: str, content: dict[str, Any], messages: Messages, previous: str | None, size: int) -> None:
        """Store a response of `size` bytes, which must be no larger than all space."""
        with self._lock:
            self._responses[content["id"]] = StoredResponse(key, content, messages, previous, size, time.time())
            self._size += size
            self._forget()

    def get(self, key: str, response_id: str, param: str | None = None) -> StoredResponse:
        """Return a response and renew its time of last use.

        Args:
            param: the request's field that names the response.

        Raises:
            RequestError: this key has no response of this id, or it was removed.
        """
        with self._lock:
            self._forget()
            found = self._responses.get(response_id)
            if found is not None and found.key == key:
                found.used = time.time()
                self._responses[response_id] = self._responses.pop(response_id)
                return found
        raise RequestError(
            404,
            "response_not_found",
            f"there is no stored response {response_id!r:.80}: it was never stored, was deleted, or was removed for "
            "its age (--response-seconds) or for others (--response-space, --max-responses); send the whole input",
            param,
        )

    def conversation(self, key: str, response_id: str, param: str) -> list[dict[str, Any]]:
        """Return the messages of a response and of all that it continues, oldest first.

        Raises:
            RequestError: one of them is not stored any more.
        """
        chain: list[StoredResponse] = []
        following: str | None = response_id
        while following is not None:
            chain.append(self.get(key, following, param))
            following = chain[-1].previous
        return [message for one in reversed(chain) for message in one.messages]

    def remove(self, key: str, response_id: str) -> None:
        """Delete a response.

        Raises:
            RequestError: as `get`.
        """
        self.get(key, response_id)
        with self._lock:
            self._drop(response_id)

    def forget_old(self) -> None:
        """Remove expired responses."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        """Remove expired responses, then the least recently used until the others fit."""
        now = time.time()
        for response_id, one in list(self._responses.items()):
            full = len(self._responses) > self.count or self._size > self.space
            if not full and now - one.used <= self.seconds:
                return  # They are in the order of their use.
            self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        removed = self._responses.pop(response_id, None)
        self._size -= removed.size if removed is not None else 0


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
