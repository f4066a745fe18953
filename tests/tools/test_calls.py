"""Calls in answers: what is read, however the text is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.tools.calls import MOST_BROKEN, CallArguments, CallBegun, CallReader, Content, answer_message, message_of

NAMES = {"weather", "add"}


def call(name="weather", arguments='{"city": "Köln"}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def read(pieces, forced=False):
    """(content, [(name, arguments)]) of an answer that comes in these pieces."""
    reader = CallReader(NAMES, forced)
    said = [one for piece in pieces for one in reader.push(piece)] + reader.finish()
    message = message_of(said)
    calls = [one["function"] for one in message.get("tool_calls", ())]
    assert len(calls) == reader.count
    return message["content"], [(one["name"], one["arguments"]) for one in calls]


KÖLN = ("weather", '{"city": "Köln"}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello.", "Hello.", []),
        (call(), None, [KÖLN]),
        (f"I look.\n{call()}", "I look.", [KÖLN]),
        (f"{call()}\n{call('add', '{}')}\n", None, [KÖLN, ("add", "{}")]),
        (f"{call()}\nDone.", "\nDone.", [KÖLN]),
        (f" {call()} and {call('add', '{}')}", " and", [KÖLN, ("add", "{}")]),
        (call().removesuffix("\n</tool_call>"), None, [KÖLN]),
        (call()[:-4], None, [KÖLN]),
        ('<tool_call>{"arguments":{"city":"a"},"name":"add"}</tool_call>', None, [("add", '{"city": "a"}')]),
        ('<tool_call>{"name": "add"}</tool_call>', None, [("add", "{}")]),
        (call(arguments=r'"{\"city\": \"a\"}"'), None, [("weather", '{"city": "a"}')]),
        (call(arguments='{"a": "</tool_call> } \\" {"}'), None, [("weather", '{"a": "</tool_call> } \\" {"}')]),
        (call(arguments=r'{"a": "\ud83d\ude00"}'), None, [("weather", '{"a": "😀"}')]),
        (call(arguments=r'{"a": "\ud83d"}'), None, [("weather", r'{"a": "\ud83d"}')]),
    ],
)
def test_text_and_calls_are_told_apart(text, content, calls):
    assert read([text]) == (content, calls)
    assert read(text) == (content, calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "a <tool",
        "a <tool_call>",
        "<tool_call>\n",
        "<tool_call>\nno JSON\n</tool_call>",
        '<tool_call>\n{"name": "add", "arguments": {',
        '<tool_call>\n{"name": "add", "arguments": }}\n</tool_call> and so on',
        '<tool_call>\n{"name": "add", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": ["add"], "arguments": {}}\n</tool_call>',
        "<tool_call>\n[1]\n</tool_call>",
        call("format_disk"),
        "</tool_call> <tool_response>",
        '<tool_call>{"a": ' + "[" * 100_000,
    ],
)
def test_what_is_no_call_of_a_known_function_stays_text_to_the_letter(text):
    assert read([text]) == read([text[:1], text[1:]]) == (text, [])


def test_after_a_broken_call_the_next_one_is_read():
    assert read([f'<tool_call>\n{{"name": {call()}']) == ('<tool_call>\n{"name":', [KÖLN])


def test_of_too_many_broken_calls_no_more_are_tried():
    broken = "<tool_call>{" * (2 * MOST_BROKEN)
    assert read([broken + call()]) == (broken + call(), [])


FRAGMENTS = st.sampled_from(
    [
        *(call(), call("add", "{}"), call("other"), "<tool_call>", "</tool_call>", "<tool", "_call>", "{", "}", '"'),
        *("\\", "\n", " ", "Text ", "é😀", '{"name": "add", "arguments": ', '{"a": [1, "}"]}', "<"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.data())
def test_how_an_answer_is_cut_into_pieces_changes_nothing(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == read([text]) == read(text)


@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_text_is_told_in_order_and_never_lost(text):
    content, calls = read(text)
    if not calls:
        assert content == text
    for name, arguments in calls:
        assert name in NAMES and isinstance(json.loads(arguments), dict)


def test_no_half_tag_and_nothing_of_a_call_is_ever_told_as_text():
    reader = CallReader(NAMES, forced=False)
    told = [one for character in f"Wait <\n{call()}" for one in reader.push(character)] + reader.finish()
    assert "".join(one.text for one in told if isinstance(one, Content)) == "Wait <"


def test_arguments_that_do_not_follow_the_schema_are_told_as_they_are():
    """As OpenAI and vLLM do: whoever has the function checks them, and can tell the model what is wrong."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": "weather", "parameters": parameters}]
    message = answer_message(call(arguments='{"city": 5, "days": []}'), tools)
    (told,) = message["tool_calls"]
    assert told["function"] == {"name": "weather", "arguments": '{"city": 5, "days": []}'}
    assert message["content"] is None


def test_the_arguments_of_a_forced_call_are_told_as_they_come():
    reader = CallReader(NAMES, forced=True)
    text = "\n".join((call(), call("add", '{"a": {"b": "}"}}')))
    told = [one for character in text for one in reader.push(character)] + reader.finish()
    assert [(one.index, one.name) for one in told if isinstance(one, CallBegun)] == [(0, "weather"), (1, "add")]
    assert sum(isinstance(one, CallArguments) for one in told) > 20
    assert read(text, forced=True) == read([text], forced=True) == (None, [KÖLN, ("add", '{"a": {"b": "}"}}')])
    identifiers = {one.id for one in told if isinstance(one, CallBegun)}
    assert len(identifiers) == 2 and all(one.startswith("call_") for one in identifiers)


def test_a_forced_call_that_was_cut_tells_the_arguments_so_far_and_no_text():
    assert read([call()[:20]], forced=True) == ("", [])
    assert read([call(arguments='{"city": "K')[:-15]], forced=True)[0] is None


def test_without_tools_all_is_text():
    reader = CallReader.of(None)
    assert reader.push(f"a {call()}") == [Content(f"a {call()}")] and reader.push(" ") == [Content(" ")]
    assert reader.finish() == [] and reader.count == 0
