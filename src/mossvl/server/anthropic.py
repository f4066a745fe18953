"""From a request for a message, Anthropic's, to a chat request."""

import json
from collections.abc import Sequence
from typing import Any

from mossvl.errors import PromptError
from mossvl.server.schemas.messages import (
    Base64Source,
    Block,
    CountRequest,
    FileSource,
    ImageBlock,
    InputMessage,
    MessagesRequest,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from mossvl.server.schemas.sampling import SamplingFields
from mossvl.tools.turns import checked_arguments

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
Message = dict[str, Any]


def chat_of(request: CountRequest) -> dict[str, Any]:
    """Return the chat request that asks the same.

    Raises:
        PromptError: a result has no call before it, or a message that is not the assistant's has a call.
    """
    _check_calls(request.messages)
    system = [{"role": "system", "content": _content(request.system)}] if request.system else []
    messages = [*system, *(turn for message in request.messages for turn in _turns(message))]
    choice, format = request.tool_choice, request.output_config and request.output_config.format
    chat: dict[str, Any] = {
        "messages": messages,
        "continue_final_message": _goes_on(messages[-1]) or None,
        "tools": [
            {"type": "function", "function": {**_named(tool), "parameters": tool.input_schema}}
            for tool in request.tools or ()
        ],
        "response_format": format and {"type": "json_schema", "json_schema": {"schema": format.schema_}},
    }
    if choice is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        chat["tool_choice"] = CHOICES.get(choice.type, named)
        chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if isinstance(request, MessagesRequest):
        chat |= {name: getattr(request, name) for name in SamplingFields.model_fields}
        chat |= {"max_tokens": request.max_tokens, "stop": request.stop_sequences}
    return chat


def _check_calls(messages: Sequence[InputMessage]) -> None:
    called: set[str] = set()
    for number, message in enumerate(messages):
        for place, block in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages.{number}.content.{place}"
            if isinstance(block, ToolUseBlock):
                if message.role != "assistant":
                    raise PromptError(f"{where}: only a message of the role 'assistant' has a tool_use")
                checked_arguments(block.input, f"{where}.input")
                called.add(block.id)
            if isinstance(block, ToolResultBlock) and block.tool_use_id not in called:
                raise PromptError(
                    f"{where} is a tool_result, but there is no tool_use with the id {block.tool_use_id!r:.80} before "
                    "it; send the assistant's message with its tool_use, too"
                )


def _named(tool: Any) -> dict[str, Any]:
    given: dict[str, Any] = tool.model_dump(include={"name", "description"}, exclude_none=True)
    return given


def _goes_on(last: Message) -> bool:
    """Whether the answer continues the last message, which is the beginning of the assistant's turn."""
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _turns(message: InputMessage) -> list[Message]:
    """Return the messages of a turn: results of calls have messages of their own, calls are part of theirs."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    turns: list[Message] = []
    rest: list[Block] = []
    calls: list[dict[str, Any]] = []
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            content = _content(block.content or "")
            turns.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content})
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
            calls.append({"id": block.id, "type": "function", "function": function})
        else:
            rest.append(block)
    if rest or calls or not turns:
        turns.append({"role": message.role, "content": _content(rest), **({"tool_calls": calls} if calls else {})})
    return turns


def _content(content: str | Sequence[Any]) -> Any:
    if isinstance(content, str):
        return content
    return [part for block in content if (part := _part(block)) is not None]


def _part(block: Any) -> Any:
    """Return a content part of a chat message; None for reasoning, which is left out."""
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, ImageBlock | VideoBlock):
        options = block.model_dump(exclude={"type", "source", "cache_control"}, exclude_none=True)
        return {"type": block.type, **_source(block.source), **options}  # Chats know these parts, too.
    return None if block.type in ("thinking", "redacted_thinking") else block


def _source(source: Any) -> dict[str, str]:
    if isinstance(source, Base64Source):
        return {"url": f"data:{source.media_type};base64,{source.data}"}
    return {"file_id": source.file_id} if isinstance(source, FileSource) else {"url": source.url}
