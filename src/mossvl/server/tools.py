"""Tools in OpenAI's chat API: the functions of a request, calls and results in its messages, and calls in answers."""

import json
from collections.abc import Sequence
from typing import Any

from mossvl.server.errors import RequestError
from mossvl.server.schemas.chat import ChatMessage, ChatRequest
from mossvl.tools.calls import CallArguments, CallBegun, Content, Piece


def tool_keys(request: ChatRequest) -> dict[str, Any]:
    """Return what a query holds of a request's functions."""
    return {
        "tools": [one.model_dump(exclude={"cache_control"}) for one in request.tools or ()],
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
    }


def call_keys(message: ChatMessage, place: int) -> dict[str, Any]:
    """Return the calls of an assistant's message, or which call a tool's message answers.

    Args:
        place: of the message among the messages.

    Raises:
        RequestError: a message of another role has one of these.
    """
    for name, role in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
        if getattr(message, name) and message.role != role:
            what = f"messages.{place}.{name}"
            raise RequestError(400, "invalid_request", f"{what}: only a message of the role {role!r} has it", what)
    if message.tool_calls:
        return {"tool_calls": [call.model_dump() for call in message.tool_calls]}
    return {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}


def texts_of_tools(request: ChatRequest) -> list[str]:
    """Return the texts of a request's functions and calls, which count as texts of its messages."""
    calls = [call for message in request.messages for call in message.tool_calls or ()]
    written = json.dumps([one.model_dump() for one in request.tools], ensure_ascii=False) if request.tools else ""
    return [written, *(call.function.arguments or "" for call in calls)]


def deltas(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Return the deltas of a streamed answer: text, the beginning of a call, or a piece of its arguments."""
    found: list[dict[str, Any]] = []
    for piece in pieces:
        match piece:
            case Content(text):
                found.append({"content": text})
            case CallBegun(index, id, name):
                function = {"name": name, "arguments": ""}
                found.append({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            case CallArguments(index, text):
                found.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    return found
