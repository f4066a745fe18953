"""Tools, asked for with OpenAI's client over a real socket: mossvl-tiny knows none, so that calls are forced."""

import base64
import json
from pathlib import Path

import openai
import pytest
from running import PATIENCE

from mossvl.server.tools import deltas
from mossvl.tools.calls import CallReader

SIGN = Path(__file__).parents[2] / "examples" / "sign.png"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "$defs": {"number": {"type": "number"}},
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/number"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ASKED = [{"role": "user", "content": "What is the weather in Köln?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0) as client:
        yield client


def complete(client, tool_choice, messages=ASKED, tools=(WEATHER, ADD, NOW), **options):
    return client.chat.completions.create(
        model="mossvl-tiny", messages=messages, tools=list(tools), tool_choice=tool_choice, **options
    )


def named(name):
    return {"type": "function", "function": {"name": name}}


def check(call):
    arguments = json.loads(call.function.arguments)
    assert call.type == "function" and call.id.startswith("call_")
    match call.function.name:
        case "weather":
            assert isinstance(arguments.pop("city"), str)
            assert arguments.pop("unit") in ("celsius", "fahrenheit")
        case "add":
            assert isinstance(arguments.pop("a"), int | float) and isinstance(arguments.pop("b"), int)
    assert arguments == {}


@pytest.mark.parametrize("name", ["weather", "add", "now"])
def test_a_named_function_is_called_with_arguments_of_its_schema(client, name):
    choice = complete(client, named(name)).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == name
    check(call)


@pytest.mark.parametrize("parallel", [None, True, False])
def test_where_a_call_is_required_one_of_the_functions_is_called(client, parallel):
    options = {} if parallel is None else {"parallel_tool_calls": parallel}
    choice = complete(client, "required", **options).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    for call in choice.message.tool_calls:
        check(call)


def test_of_allowed_tools_alone_one_is_called(client):
    allowed = {"mode": "required", "tools": [named("now")]}
    choice = complete(client, {"type": "allowed_tools", "allowed_tools": allowed}).choices[0]
    assert choice.message.tool_calls[0].function.name == "now"


def test_a_stream_has_the_call_first_and_then_its_arguments_in_pieces(client):
    whole = complete(client, named("weather")).choices[0].message.tool_calls[0].function.arguments
    chunks = list(complete(client, named("weather"), stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert (calls[0].index, calls[0].type, calls[0].function.name) == (0, "function", "weather")
    assert calls[0].id.startswith("call_") and calls[0].function.arguments == ""
    assert all(call.id is None and call.function.name is None and call.index == 0 for call in calls[1:])
    assert len(calls) > 3 and "".join(call.function.arguments for call in calls) == whole
    assert not any(delta.content for delta in deltas)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_several_streamed_answers_keep_their_calls_apart(client):
    names: list[str] = ["", ""]
    arguments = ["", ""]
    for chunk in complete(client, "required", stream=True, n=2, temperature=1, seed=5, logprobs=True):
        (choice,) = chunk.choices
        for call in choice.delta.tool_calls or ():
            names[choice.index] += call.function.name or ""
            arguments[choice.index] += call.function.arguments
    assert all(name in ("weather", "add", "now") for name in names)
    assert all(isinstance(json.loads(one), dict) for one in arguments)


def test_a_call_that_reaches_its_length_says_so(client):
    choice = complete(client, named("weather"), max_completion_tokens=30).choices[0]
    assert choice.finish_reason == "length"
    assert "<tool_call>" not in (choice.message.content or "")


def test_a_stop_text_does_not_cut_a_forced_call(client):
    check(complete(client, named("weather"), stop=["\n", "}"]).choices[0].message.tool_calls[0])


def test_a_free_answer_is_text_or_calls(client):
    message = complete(client, "auto", max_completion_tokens=8).choices[0].message
    assert isinstance(message.content, str) or message.tool_calls
    assert complete(client, "none", max_completion_tokens=8).choices[0].message.tool_calls is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_knows_no_tools_answers_beside_them_as_without(client, stream):
    url = f"data:image/png;base64,{base64.b64encode(SIGN.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is written there?"}]
    answer = complete(client, "auto", [{"role": "user", "content": parts}], stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
    assert text == "MOSS"


def test_a_json_schema_holds_for_the_text_of_a_free_answer(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    message = complete(client, "auto", response_format=form).choices[0].message
    if message.tool_calls:
        check(message.tool_calls[0])
    else:
        assert json.loads(message.content)["a"] in (1, 2)


def test_calls_and_results_may_be_sent_back(client):
    first = complete(client, named("weather")).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "12 °C"}
    messages = [*ASKED, first.model_dump(), result]
    check(complete(client, named("add"), messages).choices[0].message.tool_calls[0])
    without = client.chat.completions.create(model="mossvl-tiny", messages=messages, max_tokens=4)
    assert without.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": named("wether")}, "there is no function 'wether'; did you mean 'weather'"),
        ({"tool_choice": "always"}, "'none', 'auto', 'required'"),
        ({"tool_choice": "required", "tools": []}, "needs tools"),
        ({"tools": [NOW, WEATHER, NOW]}, "'now' is defined twice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "letters"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]}, "of an object"),
        (
            {
                "tools": [
                    NOW,
                    {
                        "type": "function",
                        "function": {"name": "a", "parameters": {"properties": {"b": {"type": "text"}}}},
                    },
                ],
                "tool_choice": "required",
            },
            "the parameters of 'a' cannot be used",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "'custom' is none of 'function'"),
        ({"tools": [NOW] * 129}, "129 functions; at most 128"),
        ({"messages": [*ASKED, {"role": "tool", "tool_call_id": "1", "content": "a"}]}, "no call at all before it"),
        (
            {
                "messages": [
                    *ASKED,
                    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a"}}]},
                    {"role": "tool", "tool_call_id": "2", "content": "a"},
                ]
            },
            "no call with the id '2' before it",
        ),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "1"}]}, "only a message of the role 'tool'"),
        ({"functions": [{"name": "a"}]}, "functions is not supported; send tools"),
        ({"function_call": {"name": "a"}}, "function_call is not supported; send tool_choice"),
        ({"tool_choice": "auto", "response_format": {"type": "regex", "pattern": "a"}}, "exclude each other"),
    ],
)
def test_what_cannot_be_used_of_tools_is_refused_with_the_reason(client, options, words):
    body = {"model": "mossvl-tiny", "messages": ASKED, "tools": [WEATHER], "max_tokens": 2} | options
    with pytest.raises(openai.BadRequestError, match=words):
        client.post("/chat/completions", body=body, cast_to=object)


def test_a_free_answer_is_streamed_as_text_and_then_whole_calls():
    reader = CallReader({"now"}, forced=False)
    text = 'I look.\n<tool_call>\n{"name": "now", "arguments": {"zone": "ö"}}\n</tool_call>'
    told = [delta for character in text for delta in deltas(reader.push(character))] + deltas(reader.finish())
    assert "".join(delta.get("content", "") for delta in told) == "I look."
    begun, arguments = (delta["tool_calls"][0] for delta in told if "tool_calls" in delta)
    assert begun.pop("id").startswith("call_")
    assert begun == {"index": 0, "type": "function", "function": {"name": "now", "arguments": ""}}
    assert arguments == {"index": 0, "function": {"arguments": '{"zone": "ö"}'}}
