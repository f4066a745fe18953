"""Turns of a conversation with calls: their checks, and their text where a chat template knows no tools.

The text is that of Hermes, which chat templates of the Qwen family write.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mossvl.errors import PromptError
from mossvl.tools.calls import BEGIN, END
from mossvl.tools.definitions import arguments_of, is_deep, is_finite

Message = dict[str, Any]
BEGIN_RESULT, END_RESULT = "<tool_response>", "</tool_response>"
TAGS = (BEGIN, END, BEGIN_RESULT, END_RESULT)
"""No text of a conversation with tools may hold these: it could forge a call, or the result of one."""
INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def has_calls(messages: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a conversation has calls or their results."""
    return any(message.get("role") == "tool" or message.get("tool_calls") for message in messages)


def checked_calls(calls: Any, number: int) -> list[dict[str, Any]]:
    """Check an assistant's calls; arguments that are a text of JSON become a dict, as chat templates take them.

    Args:
        number: the message's, for errors.

    Raises:
        PromptError: something is no call.
    """
    checked = []
    for call in calls if isinstance(calls, list | tuple) else [calls]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
            raise PromptError(
                f"message {number}: tool_calls must be a list of "
                f'{{"id": …, "type": "function", "function": {{"name": …, "arguments": …}}}}, but has {call!r:.200}'
            )
        arguments = checked_arguments(inner.get("arguments"), f"message {number}: the arguments of {name!r:.80}")
        function = {"name": name, "arguments": arguments}
        checked.append({"type": "function", "function": function} | ({"id": call["id"]} if call.get("id") else {}))
    return checked


def checked_arguments(given: Any, what: str) -> str | Mapping[str, Any]:
    """Return the arguments of a call, of JSON as a dict.

    Args:
        what: they are, in errors.

    Raises:
        PromptError: they are none.
    """
    arguments = arguments_of(given or {})
    if not isinstance(arguments, str | Mapping) or is_deep(arguments) or not is_finite(arguments):
        raise PromptError(f"{what} must be a JSON object of few levels, without NaN and infinite numbers")
    return arguments


def check_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that every message of the role "tool" answers an earlier call.

    Raises:
        PromptError: there is no such call.
    """
    known: set[Any] = set()
    called = False
    for number, message in enumerate(messages, 1):
        for call in message.get("tool_calls") or ():
            called = True
            known.add(call.get("id") if isinstance(call, Mapping) else None)
        if message.get("role") == "tool":
            given = message.get("tool_call_id")
            if not called or (given is not None and given not in known):
                what = "no call at all" if not called else f"no call with the id {given!r:.80}"
                raise PromptError(
                    f"message {number} is the result of a call (role 'tool'), but there is {what} before it; "
                    "send the assistant's message with its tool_calls, too"
                )


def with_tools_as_text(turns: Sequence[Message], definitions: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Turns as text, for a chat template that knows no tools.

    Args:
        turns: as a chat template gets them, without `TAGS` in their texts.
        definitions: functions that may be called, described at the end of the system prompt.
    """
    written: list[Message] = []
    for turn in turns:
        if turn["role"] == "tool":
            result = _extended(f"{BEGIN_RESULT}\n", turn["content"], f"\n{END_RESULT}")
            if written and written[-1]["role"] == "tool":
                written[-1] = {"role": "tool", "content": _extended(written[-1]["content"], "\n", result)}
            else:
                written.append({"role": "tool", "content": result})
        elif calls := turn.get("tool_calls"):
            before = "\n" if turn["content"] else ""
            text = before + "\n".join(_call(call["function"]) for call in calls)
            written.append({"role": "assistant", "content": _extended(turn["content"], text)})
        else:
            written.append(turn)
    written = [turn | {"role": "user"} if turn["role"] == "tool" else turn for turn in written]
    if not definitions:
        return written
    text = INTRODUCTION.format("\n".join(json.dumps(one, ensure_ascii=False) for one in definitions))
    if written[0]["role"] == "system":
        system = _extended(written[0]["content"], "\n\n" if written[0]["content"] else "", text)
        return [written[0] | {"content": system}, *written[1:]]
    return [{"role": "system", "content": text}, *written]


def _call(function: Mapping[str, Any]) -> str:
    arguments = function["arguments"]
    told = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{BEGIN}\n{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {told}}}\n{END}'


def _extended(*contents: Any) -> Any:
    """Join contents, which are texts or lists of parts."""
    if all(isinstance(one, str) for one in contents):
        return "".join(contents)
    return [
        part
        for one in contents
        for part in (([{"type": "text", "text": one}] if one else []) if isinstance(one, str) else one)
    ]
