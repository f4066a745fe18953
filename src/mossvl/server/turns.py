"""From a request for a response to a chat request: items of its input become messages."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from mossvl.errors import OptionError, PromptError
from mossvl.server.schemas.responses import (
    CallItem,
    CallOutputItem,
    FileInput,
    FunctionTool,
    ImageInput,
    InputPart,
    Item,
    MessageItem,
    ReferenceItem,
    ResponsesRequest,
    TextFormat,
    TextInput,
    VideoInput,
)
from mossvl.server.schemas.sampling import SamplingFields
from mossvl.tools.turns import checked_arguments

ITEM: TypeAdapter[Item] = TypeAdapter(Item)
LOGPROBS = "message.output_text.logprobs"
IGNORED = {"detail", "prompt_cache_breakpoint"}
"""Fields of parts that have no effect."""
MEDIA = ("image_url", "video_url", "file_id", "file_data", "file_url")
"""Fields of parts that name a medium."""
Message = dict[str, Any]


def chat_of(request: ResponsesRequest, messages: list[Message]) -> dict[str, Any]:
    """Return the chat request that asks the same of a conversation."""
    wanted = LOGPROBS in (request.include or ()) or bool(request.top_logprobs)
    choice = request.tool_choice
    return {
        "messages": messages,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": wanted or None,
        "top_logprobs": request.top_logprobs if wanted else None,
        "response_format": _form(request.text.format) if request.text and request.text.format else None,
        "tools": [_tool(tool) for tool in request.tools or ()],
        "tool_choice": choice.model_dump() if isinstance(choice, BaseModel) else choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "stop": request.stop,
        **{name: getattr(request, name) for name in SamplingFields.model_fields},
    }


class Conversation:
    """Turns items into messages.

    Args:
        item_of: returns an item of a stored response, by its id.
    """

    def __init__(self, item_of: Callable[[str], Mapping[str, Any]]) -> None:
        self._item_of = item_of

    def messages(self, given: str | Iterable[Item], before: Iterable[Message] = ()) -> list[Message]:
        """Return the messages of an input; calls of functions that follow a message are part of it, as in a chat.

        Args:
            before: messages of the conversation that the input continues.

        Raises:
            InputError: a medium cannot be used, or there is no call before its output.
            RequestError: there is no such item or file.
        """
        if isinstance(given, str):
            return [{"role": "user", "content": given}]
        messages: list[Message] = []
        called = {call["id"] for message in before for call in message.get("tool_calls") or ()}
        for number, item in enumerate(given):
            known = ITEM.validate_python(self._item_of(item.id)) if isinstance(item, ReferenceItem) else item
            if isinstance(known, MessageItem):
                messages.append({"role": known.role, "content": self._content(known.content)})
            elif isinstance(known, CallItem):
                checked_arguments(known.arguments, f"input.{number}.arguments")
                _add_call(messages, known)
                called.add(known.call_id)
            elif isinstance(known, CallOutputItem):
                _check_called(known.call_id, called, number)
                content = self._content(known.output)
                messages.append({"role": "tool", "tool_call_id": known.call_id, "content": content})
        return messages

    def _content(self, content: str | list[InputPart]) -> Any:
        return content if isinstance(content, str) else [self._part(part) for part in content]

    def _part(self, part: InputPart) -> Any:
        if isinstance(part, TextInput):
            return {"type": "text", "text": part.text}
        if isinstance(part, ImageInput | VideoInput | FileInput):
            names = [name for name in MEDIA if name in type(part).model_fields]
            given = part.model_dump(exclude=IGNORED, exclude_none=True)
            if (count := len(given.keys() & set(names))) != 1:
                raise PromptError(f"a part needs one of {', '.join(names)}, but has {count} of them")
            return given  # Chats know these parts, too.
        return part.model_dump(exclude_none=True)


def _check_called(call_id: str, called: set[str], number: int) -> None:
    if call_id not in called:
        what = f"no call with the call_id {call_id!r:.80}" if called else "no call at all"
        raise PromptError(
            f"input.{number} is a function_call_output, but there is {what} before it; send the function_call, too, or "
            "the previous_response_id of the response that has it"
        )


def _add_call(messages: list[Message], item: CallItem) -> None:
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _form(form: TextFormat) -> dict[str, Any]:
    if form.type == "regex":
        if form.pattern is None:
            raise OptionError('text.format of type "regex" needs a pattern', option="text.format")
        return {"type": form.type, "pattern": form.pattern}
    if form.type != "json_schema":
        return {"type": form.type}
    if form.schema_ is None:
        raise OptionError('text.format of type "json_schema" needs a schema', option="text.format")
    return {"type": form.type, "json_schema": {"name": form.name or "answer", "schema": form.schema_}}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
