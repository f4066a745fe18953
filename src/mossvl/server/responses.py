"""Responses and the events of their streams, OpenAI's; `mossvl` adds the media as the model saw them, and timings."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mossvl.queries.results import Result, TokenLogprobs
from mossvl.server.answers import seen
from mossvl.server.blocks import Block, Blocks, Change, Happened
from mossvl.server.errors import RequestError, error_body
from mossvl.server.exchange import Caller, Exchange, translated
from mossvl.server.reading import Asked, Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.stored import StoredResponse, size_of
from mossvl.server.turns import ITEM, Conversation, Message, chat_of

RESPONSE, MESSAGE, CALL = "resp_", "msg_", "fc_"


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
        self._number = secrets.token_hex(24) + caller.mark
        self._created = int(time.time())
        self._messages: list[Message] = []
        self._size = 0
        self._sequence = 0
        self._blocks = Blocks(None)
        self._conversation = Conversation(self._stored_item)

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
        self._messages = self._conversation.messages(request.input, before)
        self._size = size_of(self._messages)
        instructions = [{"role": "system", "content": request.instructions}] if request.instructions else []
        chat = chat_of(request, [*instructions, *before, *self._messages])
        asked = reader.read(translated(ChatRequest, chat))
        self._blocks = Blocks(asked.tools)
        return [asked]

    def _stored_item(self, item_id: str) -> Mapping[str, Any]:
        """Return an item of a stored response.

        Raises:
            RequestError: no stored response of this key has the item.
        """
        number = item_id.partition("_")[2].partition("_")[0]
        if not number:
            wanted = "expected the id of an item in a stored response's output; send the item itself, or such an id"
            raise RequestError(404, "item_not_found", f"there is no item {item_id!r:.80}; {wanted}", "input")
        stored = self.caller.responses.get(self.caller.key, f"{RESPONSE}{number}", "input")
        for item in stored.content["output"]:
            if item["id"] == item_id:
                return dict(item)
        raise RequestError(404, "item_not_found", f"the stored response has no item {item_id!r:.80}", "input")

    # --- the whole answer ----------------------------------------------------------------------------------------

    def whole(self, results: Sequence[Result]) -> bytes:
        """Return the response as JSON; many log-probabilities make this slow."""
        (result,) = results
        self._blocks.add(self.readers[0].news())
        return json.dumps(self._finished(result)).encode()

    def _finished(self, result: Result) -> dict[str, Any]:
        """Return the response to a successful query, and store it."""
        status = self._status
        cut = status == "incomplete"
        response = self._response(status) | {
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(block, self._status_of(block)) for block in self._blocks.blocks],
            "usage": usage_of(result),
            "mossvl": seen(result),
        }
        self._store(response)
        return response

    def _store(self, response: dict[str, Any]) -> None:
        size = self._size + size_of(response)
        store = self.caller.responses
        response["store"] = self.request.store is not False and size <= store.space
        if response["store"]:
            answer = self._conversation.messages([ITEM.validate_python(item) for item in response["output"]])
            messages = [*self._messages, *answer]
            kept = StoredResponse(
                id=response["id"],
                owner=self.caller.key,
                size=size,
                content=response,
                messages=messages,
                previous=self.request.previous_response_id,
            )
            store.add(kept)

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

    @property
    def _status(self) -> str:
        return "incomplete" if self._blocks.finish_reason == "length" else "completed"

    def _status_of(self, block: Block) -> str:
        """Only the last item of an answer can be incomplete."""
        return self._status if block is self._blocks.blocks[-1] else "completed"

    def _item(self, block: Block, status: str, begun: bool = False) -> dict[str, Any]:
        """Return an output item; with `begun`, one that is still empty."""
        head = {"id": self._item_id(block), "status": status}
        if (call := block.call) is not None:
            arguments = "" if begun else block.text
            return head | {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}
        content = [] if begun else [self._part(block.text, block.logprobs)]
        return head | {"type": "message", "role": "assistant", "content": content}

    def _item_id(self, block: Block) -> str:
        return f"{MESSAGE if block.call is None else CALL}{self._number}_{block.index}"

    def _part(self, text: str, drawn: Sequence[TokenLogprobs] = ()) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs(drawn)}

    def _logprobs(self, drawn: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.caller.tokens.logprobs(drawn)["content"]
        return found

    # --- the stream ----------------------------------------------------------------------------------------------

    def opening(self) -> list[dict[str, Any]]:
        response = self._response("in_progress")
        return [self._event("created", response=response), self._event("in_progress", response=response)]

    def news(self) -> list[dict[str, Any]]:
        return [event for change in self._blocks.add(self.readers[0].news()) for event in self._events(change)]

    def _events(self, change: Change) -> list[dict[str, Any]]:
        block, text = change.block, change.block.call is None
        match change.what:
            case Happened.BEGUN:
                item = self._item(block, "in_progress", begun=True)
                added = self._event("output_item.added", output_index=block.index, item=item)
                return [added, self._of(block, "content_part.added", part=self._part(""))] if text else [added]
            case Happened.GROWN if text:
                logprobs = self._logprobs(change.logprobs)
                return [self._of(block, "output_text.delta", delta=change.text, logprobs=logprobs)]
            case Happened.GROWN:
                return [self._of(block, "function_call_arguments.delta", delta=change.text)]
        item = self._item(block, self._status_of(block))
        if block.call is None:
            (part,) = item["content"]
            done = [
                self._of(block, "output_text.done", text=part["text"], logprobs=part["logprobs"]),
                self._of(block, "content_part.done", part=part),
            ]
        else:
            done = [self._of(block, "function_call_arguments.done", name=block.call.name, arguments=block.text)]
        return [*done, self._event("output_item.done", output_index=block.index, item=item)]

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        response = self._finished(results[0])
        return [self._event(response["status"], response=response)]

    def failed(self, refused: RequestError) -> list[dict[str, Any]]:
        error = error_body(refused)["error"]
        told = {name: error[name] for name in ("code", "message", "param")}
        code = "server_error" if refused.status >= 500 else "invalid_prompt"
        response = self._response("failed") | {"error": {"code": code, "message": told["message"]}}
        return [self._numbered("error", **told), self._event("failed", response=response)]

    def _of(self, block: Block, kind: str, **fields: Any) -> dict[str, Any]:
        """Return an event of an item, or of a message's only part."""
        part = {"content_index": 0} if block.call is None else {}
        return self._event(kind, item_id=self._item_id(block), output_index=block.index, **part, **fields)

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
