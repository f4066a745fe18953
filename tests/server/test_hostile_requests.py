"""Malformed requests to every API are refused with a place, and cost nothing else: no server needed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl.errors import InputError, OptionError
from mossvl.options import SamplingParams
from mossvl.server.answers import Tokens
from mossvl.server.chat import ChatExchange
from mossvl.server.completions import CompletionExchange
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal
from mossvl.server.exchange import Caller
from mossvl.server.messages import MessageExchange
from mossvl.server.reading import Reader
from mossvl.server.responses import ResponseExchange
from mossvl.server.service import parsed
from mossvl.server.stored import StoredResponses
from mossvl.tools.constraint import constrained
from mossvl.tools.definitions import Function, Tools

PICTURE = "data:image/png;base64,AA=="
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
GOOD = {
    CompletionExchange: [
        {"prompt": ["a", "b"], "n": 1, "echo": True, "logprobs": 1, "stop": ["a"], "max_tokens": 0},
        {"prompt": [[1, 2], [3]], "stream": True, "logit_bias": {"5": 1}},
    ],
    ResponseExchange: [
        {
            "instructions": "a",
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "a"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
                {"role": "user", "content": [{"type": "input_file", "file_data": PICTURE}]},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            "include": ["message.output_text.logprobs"],
            "metadata": {"a": "b"},
        },
        {"input": [{"type": "item_reference", "id": "msg_1_0"}, {"id": "fc_2_0"}], "previous_response_id": "resp_1"},
        {"input": "a", "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}},
    ],
    MessageExchange: [
        {
            "max_tokens": 5,
            "system": [{"type": "text", "text": "a"}],
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "a"}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "source": {"type": "url", "url": "https://a.org/a.mp4"}, "fps": 2},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                        {"type": "thinking", "thinking": "a"},
                    ],
                },
            ],
            "tools": [{"name": "f", "input_schema": SCHEMA}],
            "tool_choice": {"type": "tool", "name": "f"},
            "stop_sequences": ["a"],
            "output_config": {"format": None},
        },
    ],
}
NEUTRAL = [
    {"best_of": 1},
    {"best_of": None},
    {"length_penalty": 1.0},
    {"length_penalty": 1},
    {"use_beam_search": False},
]
BITS = [
    b"null",
    b"{}",
    b"[]",
    b"-1",
    b"1e999",
    b'"',
    b"true",
    b"[[[[",
    b"\x00",
    b'"\\ud800"',
    b'{"type": []}',
    b'"type"',
]


class Untokenised:
    added_tokens_decoder: dict = {}


def asked(kind, body):
    caller = Caller("1", "", "mossvl-tiny", Tokens(Untokenised()), StoredResponses(1000, 60, 9))
    exchange = kind(parsed(kind.form, body), caller)
    return exchange, exchange.asked(Reader(ServerConfig(), 8, lambda number: f"/uploads/{number}.png"))


def refusal_of(kind, body):
    try:
        asked(kind, body)
    except (InputError, RequestError) as error:
        return refusal(error)
    return None


@pytest.mark.parametrize("kind", GOOD)
def test_requests_that_are_well_formed_are_read(kind):
    for good in GOOD[kind]:
        refused = refusal_of(kind, json.dumps(good).encode())
        assert refused is None or refused.code == "response_not_found"


@pytest.mark.parametrize("neutral", NEUTRAL, ids=str)
def test_values_that_change_nothing_are_no_use_of_what_is_not_supported(neutral):
    for kind, body in (
        (CompletionExchange, {"prompt": "a", "suffix": ""}),
        (ChatExchange, {"messages": [{"role": "user", "content": "a"}]}),
    ):
        assert refusal_of(kind, json.dumps(body | neutral).encode()) is None


@pytest.mark.parametrize(
    "wrong", [{"best_of": 2}, {"best_of": True}, {"length_penalty": 0.9}, {"best_of": "1"}], ids=str
)
def test_other_values_are(wrong):
    refused = refusal_of(CompletionExchange, json.dumps({"prompt": "a"} | wrong).encode())
    assert refused is not None and (refused.code, refused.param) == ("unsupported", *wrong)


@pytest.mark.parametrize("kind", GOOD)
@settings(max_examples=1500, deadline=None, database=None)
@given(data=st.data())
def test_malformed_requests_are_refused_and_nothing_else(kind, data):
    good = json.dumps(data.draw(st.sampled_from(GOOD[kind]))).encode()
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, min(len(good), start + 20)))
    bits = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(BITS)))
    refused = refusal_of(kind, good[:start] + bits + good[stop:])
    assert refused is None or 400 <= refused.status < 500


def called(schema, short):
    """Return the error of a forced call of a function; None if it may be called."""
    tools = Tools((Function("f", parameters=schema),), forced=True)
    try:
        constrained(SamplingParams(), tools, short)
    except OptionError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": None},
        {"type": "array", "minItems": "3"},
        {"type": "object", "minProperties": "3"},
        {"type": "object", "required": 5},
        {"type": "object", "required": [{}]},
        {"type": 5},
        {"type": [{}]},
        {"type": {"number": 1}},
        {"type": {}},
    ],
    ids=json.dumps,
)
def test_a_malformed_schema_is_refused_alike_whether_or_not_the_model_knows_tools(schema):
    schema = {"type": "object", "properties": {"a": schema}}
    refused = called(schema, short=False)
    assert refused is not None and called(schema, short=True) == refused


WORDS = ["type", "minItems", "minProperties", "required", "properties", "items", "additionalProperties", "enum"]


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.recursive(
        st.sampled_from([None, True, 2, -1, 0.5, "3", "object", "array", "number", "string"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
        max_leaves=8,
    )
)
def test_no_schema_of_a_forced_call_raises_anything_but_its_refusal(schema):
    called({"type": "object", "properties": {"a": schema}}, short=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "role", "a"]), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", GOOD)
@settings(max_examples=1500, deadline=None, database=None)
@given(data=st.data())
def test_values_of_other_types_are_refused_and_nothing_else(kind, data):
    body = json.loads(json.dumps(data.draw(st.sampled_from(GOOD[kind]))))
    here = body
    while True:
        places = list(here) if isinstance(here, dict) else range(len(here))
        place = data.draw(st.sampled_from(list(places)))
        if isinstance(here[place], dict | list) and here[place] and data.draw(st.booleans()):
            here = here[place]
            continue
        here[place] = data.draw(VALUES)
        break
    refused = refusal_of(kind, json.dumps(body).encode())
    assert refused is None or 400 <= refused.status < 500


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        (CompletionExchange, {"prompt": ["a", "b"], "n": 10**12}, "n"),
        (CompletionExchange, {"prompt": [10**30]}, "prompt.0"),
        (ResponseExchange, {"input": "a", "tool_choice": "any"}, "tool_choice"),
        (
            ResponseExchange,
            {"input": [{"type": "function_call", "call_id": "1", "name": "", "arguments": ""}]},
            "input.0.name",
        ),
        (
            MessageExchange,
            {
                "max_tokens": 1,
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "", "input": {}}]}
                ],
            },
            "messages.0.content.0.name",
        ),
    ],
)
def test_a_refusal_names_the_field_of_its_own_api(kind, body, param):
    refused = refusal_of(kind, json.dumps(body).encode())
    assert refused is not None
    assert (refused.status, refused.param) == (400, param)


@pytest.mark.parametrize("wrong", [{"type": 5}, {"type": [["x"]]}, {"type": None}, {"type": "array", "minItems": "3"}])
def test_a_forced_call_whose_schema_is_malformed_is_refused(wrong):
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": wrong}}}
    body = {"input": "a", "tools": [tool], "tool_choice": "required"}
    caller = Caller("1", "", "mossvl-tiny", Tokens(Untokenised()), StoredResponses(1000, 60, 9))
    exchange = ResponseExchange(parsed(ResponseExchange.form, json.dumps(body).encode()), caller)
    with pytest.raises(InputError, match="the parameters of 'f' cannot be used"):
        exchange.asked(Reader(ServerConfig(), 8, str, knows_tools=False))
