"""What the front reads of a request: its head, what decides which replica takes it, and an estimate of its tokens."""

import json
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

from mossvl.server.middleware import UPLOADS

ANSWERING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
"""Paths that, with POST, run a query: these count for the queue."""
MEDIUM = re.compile(
    rb'"(?:url|image_url|video_url|file_url|file_id|file_data|data|image|video|path)"\s*:\s*(?:\[\s*)?"(?!\s*")'
)
"""The beginning of the first medium's URL, id or content; no text holds these bytes, since its quotes are escaped."""
LONGEST_SAMPLE = 1 << 16
"""Bytes of a medium's URL, or of a conversation, that tell it from others, beside the number of all its bytes."""
LARGEST_READ = 1 << 20
"""Bytes of a body that is read as JSON."""
ANSWER_LENGTH = re.compile(rb'"max_(?:completion_|output_|new_)?tokens"\s*:\s*(\d{1,9})')
ANSWER_TOKENS, MEDIUM_TOKENS, BYTES_A_TOKEN = 256, 2048, 4
"""Estimates: tokens of an answer whose length is not given, and of a medium; bytes of a token of text."""
LONGEST_ANSWER = 8192
"""Tokens of an answer that count at most: few requests use up what they ask for."""
PREVIOUS = re.compile(rb'"previous_response_id"\s*:\s*"resp_[0-9a-f]+r(\d{1,4})"')
"""The replica that has made the response that is continued; `Place.mark` puts it there."""
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)
"""Headers that are about one connection, and are not passed on."""


@dataclass(frozen=True)
class Head:
    """A request's head; header names are in lower case."""

    method: str
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]

    @property
    def path(self) -> str:
        return unquote(self.target.partition(b"?")[0].decode("latin-1"))

    def get(self, name: bytes) -> bytes:
        """Return the first header of a name, or b""."""
        return next((value for found, value in self.headers if found == name), b"")

    @property
    def is_socket(self) -> bool:
        """Whether the client asks for a WebSocket."""
        return self.get(b"upgrade").lower() == b"websocket" and self.method == "GET"

    @property
    def answers(self) -> bool:
        """Whether the request runs a query."""
        return self.method == "POST" and self.path in ANSWERING

    @property
    def uploads(self) -> bool:
        """Whether the request's body is a file, which is passed on as it comes."""
        return self.method == "POST" and self.path == UPLOADS

    def passed_on(self, address: str) -> list[tuple[bytes, bytes]]:
        """Return the headers for a replica.

        Args:
            address: of the client; a proxy on this machine tells its client's address itself.
        """
        kept = [(name, value) for name, value in self.headers if name not in HOP_BY_HOP]
        if address not in ("127.0.0.1", "::1") or not self.get(b"x-forwarded-for"):
            kept = [(name, value) for name, value in kept if not name.startswith(b"x-forwarded-")]
            kept.append((b"x-forwarded-for", address.encode("latin-1", "replace") or b"-"))
        return kept


@dataclass(frozen=True)
class Wish:
    """Where a request is to go.

    Attributes:
        tokens: estimate for prompt and answer.
        key: what it has in common with the requests that one replica should take; None if nothing.
        replica: the one that has its conversation, if that is known.
    """

    tokens: int = 0
    key: bytes | None = None
    replica: int | None = None


def wish_of(path: str, body: bytes) -> Wish:
    """Return where a request with a JSON body is to go: it need not be a valid one."""
    medium = MEDIUM.search(body)
    end = 0 if medium is None else body.find(b'"', medium.end())
    end = len(body) if end < 0 else end
    around = body[:LONGEST_SAMPLE], body[max(end, len(body) - LONGEST_SAMPLE) :]  # A search of all would take long.
    length = next(filter(None, map(ANSWER_LENGTH.search, around)), None)
    answer = min(int(length[1]), LONGEST_ANSWER) if length else ANSWER_TOKENS
    previous = next(filter(None, map(PREVIOUS.search, around)), None) if path == "/v1/responses" else None
    replica = int(previous[1]) if previous else None
    if medium is None:
        return Wish(len(body) // BYTES_A_TOKEN + answer, _conversation(body), replica)
    text = len(body) - (end - medium.end())
    sample = body[medium.end() : min(end, medium.end() + LONGEST_SAMPLE)], body[max(medium.end(), end - 64) : end]
    key = _digest(*sample, str(end - medium.end()).encode())
    return Wish(min(text, LARGEST_READ) // BYTES_A_TOKEN + MEDIUM_TOKENS + answer, key, replica)


def _conversation(body: bytes) -> bytes | None:
    """The digest of a conversation's first messages: up to the user's first one, which follow-ups repeat.

    The model, which may be an adapter, belongs to it: what one adapter has computed of texts, no other one reuses.
    """
    if len(body) > LARGEST_READ:
        return None
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    around = [given.get(name) for name in ("model", "system", "instructions")]
    return _digest(json.dumps([around, _first(given)], sort_keys=True).encode()) if _first(given) else None


def _first(given: dict[str, Any]) -> Any:
    """The beginning of a prompt, in any API's form."""
    turns = next((given[name] for name in ("messages", "input", "prompt") if given.get(name)), None)
    if not isinstance(turns, list):
        return turns
    users = (number for number, turn in enumerate(turns) if isinstance(turn, dict) and turn.get("role") == "user")
    return turns[: next(users, 0) + 1]


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
        digest.update(b"\0")
    return digest.digest()
