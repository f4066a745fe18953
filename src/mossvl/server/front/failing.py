"""What clients are told when the replica that answered them has died."""

import json
import re
from typing import Any

from mossvl.server.errors import RequestError, anthropic_body, error_body, is_anthropic, unavailable
from mossvl.server.streams import event

SEQUENCE = re.compile(rb'"sequence_number": ?(\d+)')
OPENED = re.compile(rb"^event: response\.created\r?\ndata: (.*)$", re.MULTILINE)


ENDS = (b"data: [DONE]\n\n", b'"type": "message_stop"', b"event: response.completed\n", b"event: response.incomplete\n")
"""What the last event of a whole stream has, of any API."""


def is_whole(last: bytes) -> bool:
    """Return whether a stream has ended with these bytes, though its connection has not."""
    return any(end in last for end in ENDS)


def died() -> RequestError:
    """Return the refusal of a request whose replica has died before its answer began."""
    return unavailable("replica_failed", "the replica that had this request has failed; send the request again")


def last_events(path: str, first: bytes, last: bytes) -> bytes:
    """Return the events that end a stream whose replica has died, in the form of the path's API.

    Args:
        first, last: the bytes with which the stream began, and the newest ones.
    """
    refused = died()
    if is_anthropic(path):
        return event(anthropic_body(refused))
    if path == "/v1/responses":
        return b"".join(map(event, _of_response(refused, first, last)))
    return event(error_body(refused))


def _of_response(refused: RequestError, first: bytes, last: bytes) -> list[dict[str, Any]]:
    told = error_body(refused)["error"]
    numbers = SEQUENCE.findall(last) or SEQUENCE.findall(first) or [b"-1"]
    number = int(numbers[-1]) + 1
    error = {"type": "error", "sequence_number": number, **{name: told[name] for name in ("code", "message", "param")}}
    opened = OPENED.search(first)
    if opened is None:
        return [error]
    response = json.loads(opened[1])["response"]
    response |= {"status": "failed", "error": {"code": "server_error", "message": told["message"]}}
    return [error, {"type": "response.failed", "sequence_number": number + 1, "response": response}]
