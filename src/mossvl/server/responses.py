"""Responses and the events of their streams, OpenAI's; `mossvl` adds the media as the model saw them, and timings."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mossvl.queries.results import Result, TokenLogprobs
from mossvl.server.answers import REASONS, seen
from mossvl.server.errors import RequestError, error_body
from mossvl.server.exchange import Caller, Exchange, translated
from mossvl.server.reading import Asked, Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.stored import size_of
from mossvl.server.turns import Conversation, Message, chat_of

RESPONSE, ITEM = "resp_", "msg_"


class ResponseExchange(Exchange[ResponsesRequest]):
    """A response, whole or as events; stored on success, unless the client does not want that."""

    form = ResponsesRequest
    prompt: ClassVar[str] = "input"
    names: ClassVar[Mapping[str, str]] = {
        "messages": "input",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
    }

    def __init__(self, request: ResponsesRequest, caller: Caller) -> None:
        super().__init__(request, caller)
        self._number = secrets.token_hex(24)
        self._created = int(time.time())
        self._messages: list[Message] = []
        self._size = 0
        self._sequence = 0
        self._told = 0
        self._begun = self._ended = False
        self._text: list[str] = []

    # --- the request ---------------------------------------------------------------------------------------------

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    def asked(self, reader: Reader) -> list[Asked]:
        request = self.request
        before: list[Message] = []
        if request.previous_response_id is not None:
            stored = self.caller.responses
            before = stored.conversation(self.caller.key, request.previous_response_id, "previous_response_id")
        self._messages = Conversation(self._stored_item, self.caller.filename_of).messages(request.input)
        self._size = size_of(self._messages)
        instructions = [{"role": "system", "content": request.instructions}] if request.instructions else []
        chat = chat_of(request, [*instructions, *before, *self._messages])
        return [reader.read(translated(ChatRequest, chat))]

    def _stored_item(self, item_id: str) -> Mapping[str, Any]:
        """Return an item of a stored response.

        Raises:
            RequestError: no stored response of this key has the item.
        """
        number = item_id.partition("_")[2].partition("_")[0]
        stored = self.caller.responses.get(self.caller.key, f"{RESPONSE}{number}", "input")
        for item in stored.content["output"]:
            if item["id"] == item_id:
                return dict(item)
        raise RequestError(404, "item_not_found", f"the stored response has no item {item_id!r:.80}", "input")

    # --- the whole answer ----------------------------------------------------------------------------------------

    def whole(self, results: Sequence[Result]) -> bytes:
        """Return the response as JSON; many log-probabilities make this slow."""
        return json.dumps(self._finished(results[0])).encode()

    def _finished(self, result: Result) -> dict[str, Any]:
        """Return the response to a successful query, and store it."""
        (answer,) = result.answers
        cut = answer.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        response = self._response(status) | {
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(status, [self._part(answer.text, answer.logprobs)])],
            "usage": usage_of(result),
            "mossvl": seen(result),
        }
        self._store(response, answer.text)
        return response

    def _store(self, response: dict[str, Any], text: str) -> None:
        size = self._size + size_of(response)
        store = self.caller.responses
        response["store"] = self.request.store is not False and size <= store.space
        if response["store"]:
            messages = [*self._messages, {"role": "assistant", "content": text}]
            store.keep(self.caller.key, response, messages, self.request.previous_response_id, size)

    def _response(self, status: str) -> dict[str, Any]:
        request = self.request
        text = request.text
        given = request.model_dump(
            include={"instructions", "previous_response_id", "max_output_tokens", "tools", "tool_choice"}, by_alias=True
        )
        return {
            "id": f"{RESPONSE}{self._number}",
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.caller.model,
            "output": [],
            "usage": None,
            **given,
            "tools": given["tools"] or [],
            "tool_choice": given["tool_choice"] or "auto",
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "temperature": request.temperature or 0.0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "top_logprobs": request.top_logprobs or 0,
            "text": {
                "format": text.format.model_dump(by_alias=True, exclude_none=True)
                if text and text.format
                else {"type": "text"}
            },
            "truncation": "disabled",
            "background": False,
            "store": request.store is not False,
            "metadata": request.metadata or {},
            "reasoning": None,
        }

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    @property
    def _item_id(self) -> str:
        return f"{ITEM}{self._number}_0"

    def _part(self, text: str, drawn: Sequence[TokenLogprobs] | None) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs(drawn)}

    def _logprobs(self, drawn: Sequence[TokenLogprobs] | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.caller.tokens.logprobs(drawn)["content"] if drawn else []
        return found

    # --- the stream ----------------------------------------------------------------------------------------------

    def opening(self) -> list[dict[str, Any]]:
        response = self._response("in_progress")
        return [self._event("created", response=response), self._event("in_progress", response=response)]

    def news(self) -> list[dict[str, Any]]:
        draft = self.handle.drafts[0]
        reason = draft.finish_reason
        text, drawn = self.handle.take(), draft.logprobs[self._told :]
        self._told += len(drawn)
        events = []
        if text or drawn:
            events += self._begin()
            self._text.append(text)
            events.append(self._piece("output_text.delta", delta=text, logprobs=self._logprobs(drawn)))
        if reason in REASONS and not self._ended:
            self._ended = True
            events += self._begin()
            logprobs = self._logprobs(draft.logprobs)
            text = "".join(self._text)
            part = self._part(text, draft.logprobs)
            status = "incomplete" if reason == "length" else "completed"
            events.append(self._piece("output_text.done", text=text, logprobs=logprobs))
            events.append(self._piece("content_part.done", part=part))
            events.append(self._event("output_item.done", output_index=0, item=self._item(status, [part])))
        return events

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        response = self._finished(results[0])
        return [self._event(response["status"], response=response)]

    def failed(self, refused: RequestError) -> list[dict[str, Any]]:
        error = error_body(refused)["error"]
        told = {name: error[name] for name in ("code", "message", "param")}
        code = "server_error" if refused.status >= 500 else "invalid_prompt"
        response = self._response("failed") | {"error": {"code": code, "message": told["message"]}}
        return [self._numbered("error", **told), self._event("failed", response=response)]

    def _begin(self) -> list[dict[str, Any]]:
        """Return the events of a new item, unless it has begun."""
        if self._begun:
            return []
        self._begun = True
        item = self._item("in_progress", [])
        return [
            self._event("output_item.added", output_index=0, item=item),
            self._piece("content_part.added", part=self._part("", None)),
        ]

    def _piece(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._numbered(f"response.{kind}", **fields)

    def _numbered(self, kind: str, **fields: Any) -> dict[str, Any]:
        number, self._sequence = self._sequence, self._sequence + 1
        return {"type": kind, "sequence_number": number, **fields}


def usage_of(result: Result) -> dict[str, Any]:
    """Return token counts; input tokens are text plus vision tokens, cached ones are text only."""
    usage = result.usage
    given = usage.prompt_tokens + usage.vision_tokens
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
            "text_tokens": usage.prompt_tokens,
            "vision_tokens": usage.vision_tokens,
        },
        "output_tokens": usage.new_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + usage.new_tokens,
    }
