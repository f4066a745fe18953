"""Messages and the events of their streams, Anthropic's; `mossvl` adds the media as the model saw them, and timings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mossvl.errors import MossVLError
from mossvl.queries.results import Result, Usage
from mossvl.server.answers import seen
from mossvl.server.anthropic import chat_of
from mossvl.server.blocks import Block, Blocks, Change, Happened
from mossvl.server.counting import count_tokens
from mossvl.server.errors import RequestError, anthropic_body
from mossvl.server.exchange import Caller, Exchange, placed, translated
from mossvl.server.reading import Asked, Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.messages import CountRequest, MessagesRequest
from mossvl.server.service import Service, parsed
from mossvl.server.streams import event
from mossvl.sources.processes import RemoteCall

PING = {"type": "ping"}


class MessageExchange(Exchange[MessagesRequest]):
    """A message, whole or as events."""

    form = MessagesRequest
    names: ClassVar[Mapping[str, str]] = {
        "messages": "messages",  # As a whole: in the chat request, places within are others.
        "response_format": "output_config.format",
        "stop": "stop_sequences",
    }
    alive: ClassVar[bytes] = event(PING)

    def __init__(self, request: MessagesRequest, caller: Caller) -> None:
        super().__init__(request, caller)
        self._blocks = Blocks(None)

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    def asked(self, reader: Reader) -> list[Asked]:
        asked = reader.read(translated(ChatRequest, chat_of(self.request)))
        self._blocks = Blocks(asked.tools)
        return [asked]

    def whole(self, results: Sequence[Result]) -> bytes:
        (result,) = results
        self._blocks.add(self.readers[0].news())
        content = [_content(block, begun=False) for block in self._blocks.blocks]
        message = self._message(content, result.usage) | self._ending() | {"mossvl": seen(result)}
        return json.dumps(message).encode()

    def _message(self, content: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {
            "id": f"msg_{self.caller.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self.caller.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(usage),
        }

    def _ending(self) -> dict[str, Any]:
        """Return why the answer has ended."""
        stop = self.handle.drafts[0].text.stop_string
        if self._blocks.finish_reason == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if self._blocks.called:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        return {"stop_reason": "end_turn" if stop is None else "stop_sequence", "stop_sequence": stop}

    # --- the stream ----------------------------------------------------------------------------------------------

    def opening(self) -> list[dict[str, Any]]:
        handle = self.handle
        usage = Usage(handle.prompt_tokens, handle.vision_tokens, handle.cached_tokens, 0)
        return [{"type": "message_start", "message": self._message([], usage)}, PING]

    def news(self) -> list[dict[str, Any]]:
        return [_event(change) for change in self._blocks.add(self.readers[0].news())]

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        (result,) = results
        ending = {"type": "message_delta", "delta": self._ending(), "usage": usage_of(result.usage)}
        return [ending | {"mossvl": seen(result)}, {"type": "message_stop"}]

    def failed(self, refused: RequestError) -> list[dict[str, Any]]:
        return [anthropic_body(refused)]


def _event(change: Change) -> dict[str, Any]:
    block = change.block
    match change.what:
        case Happened.BEGUN:
            content = _content(block, begun=True)
            return {"type": "content_block_start", "index": block.index, "content_block": content}
        case Happened.GROWN:
            text = {"type": "text_delta", "text": change.text}
            arguments = {"type": "input_json_delta", "partial_json": change.text}
            delta = text if block.call is None else arguments
            return {"type": "content_block_delta", "index": block.index, "delta": delta}
    return {"type": "content_block_stop", "index": block.index}


def _content(block: Block, begun: bool) -> dict[str, Any]:
    """Return a content block; with `begun`, one that is still empty."""
    if block.call is None:
        return {"type": "text", "text": "" if begun else block.text}
    return {
        "type": "tool_use",
        "id": block.call.id,
        "name": block.call.name,
        "input": {} if begun else _arguments(block.text),
    }


def _arguments(text: str) -> Any:
    """Return the arguments of a call; none of one that reached the length of its answer."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return token counts; those read from the prefix cache are not part of `input_tokens`."""
    return {
        "input_tokens": usage.prompt_tokens + usage.vision_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.new_tokens,
    }


def counted(service: Service, body: bytes, key: str) -> RemoteCall[int]:
    """Return a call that counts the tokens of a conversation.

    Args:
        key: stands for the API key that the request brought.

    Raises:
        MossVLError: the request cannot be used.
    """
    request = parsed(CountRequest, body)
    try:
        query = service.ready.reader(key).query(translated(ChatRequest, chat_of(request)))
        return service.errand(count_tokens, query, query.messages([]))
    except MossVLError as error:
        raise placed(error, request, MessageExchange.names, MessageExchange.prompt) from error
