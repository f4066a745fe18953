"""What is wrong with a request is told with its place, and with all that the place allows: no server needed."""

import json

import pytest

from mossvl.errors import InputError
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal
from mossvl.server.exchange import Caller
from mossvl.server.messages import MessageExchange
from mossvl.server.reading import Reader
from mossvl.server.responses import ResponseExchange
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.completions import CompletionRequest
from mossvl.server.schemas.frames import FramesRequest
from mossvl.server.schemas.messages import CountRequest, MessagesRequest
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.service import parsed
from mossvl.server.shapes import Place
from mossvl.server.stored import StoredResponses
from mossvl.server.turns import Conversation

READER = Reader(ServerConfig(), 8, str)
HELLO = [{"role": "user", "content": "Hello"}]


def video(**options):
    return {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4", **options}}


def refused(body, form=ChatRequest):
    with pytest.raises(RequestError) as found:
        parsed(form, json.dumps(body).encode())
    return found.value


TEXT_OR_PARTS = "Input should be a string or a list of objects, not 5"


@pytest.mark.parametrize(
    ("form", "given", "told"),
    [
        (ChatRequest, {"messages": [{"role": "user", "content": 5}]}, f"messages.0.content: {TEXT_OR_PARTS}"),
        (ChatRequest, {"stop": 5}, "stop: Input should be a string or a list of strings, not 5"),
        (ChatRequest, {"stop": [5]}, "stop.0: Input should be a valid string, not 5"),
        (ChatRequest, {"tool_choice": 1}, "tool_choice: Input should be a string or an object, not 1"),
        (ChatRequest, {"guided_json": 5}, "guided_json: Input should be an object or a string, not 5"),
        (ChatRequest, {"response_format": 5}, "response_format: Input should be an object, not 5"),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]},
            "messages.0.content.0.image_url: Input should be a string or an object, not 5",
        ),
        (
            CompletionRequest,
            {"prompt": 5},
            "prompt: Input should be a string, a list of strings, a list of integers or a list of lists of integers, "
            "not 5",
        ),
        (
            CompletionRequest,
            {"prompt": [{}]},
            "prompt: Input should be a string, a list of strings, a list of integers or a list of lists of integers",
        ),
        (CompletionRequest, {"prompt": [1, "a"]}, "prompt.1: Input should be a valid integer, not 'a'"),
        (ResponsesRequest, {"input": 5}, f"input: {TEXT_OR_PARTS}"),
        (ResponsesRequest, {"input": [5]}, "input.0: Input should be an object, not 5"),
        (ResponsesRequest, {"input": [{"role": "user", "content": 5}]}, f"input.0.content: {TEXT_OR_PARTS}"),
        (
            ResponsesRequest,
            {"input": "a", "tool_choice": 1},
            "tool_choice: Input should be 'none', 'auto', 'required' or an object, not 1",
        ),
        (MessagesRequest, {"messages": HELLO, "max_tokens": 1, "system": 5}, f"system: {TEXT_OR_PARTS}"),
        (
            MessagesRequest,
            {"messages": [{"role": "user", "content": 5}], "max_tokens": 1},
            f"messages.0.content: {TEXT_OR_PARTS}",
        ),
        (
            MessagesRequest,
            {
                "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": 5}]}],
                "max_tokens": 1,
            },
            f"messages.0.content.0.content: {TEXT_OR_PARTS}",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_told_with_every_type_that_its_place_allows(form, given, told):
    chat = {"messages": HELLO} if form is ChatRequest else {}
    assert str(refused(chat | given, form)) == told


@pytest.mark.parametrize(
    ("part", "param", "words"),
    [
        (video(fps=1e300), "video_url.fps", "fps=1e+300 must be more than 0 and at most 100000"),
        (video(min_pixels=5, max_pixels=4), "video_url.min_pixels", "min_pixels=5 is more than max_pixels=4"),
        (video(min_frames=3, max_frames=2), "video_url.min_frames", "min_frames=3 is more than max_frames=2"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "min_pixels": 2, "max_pixels": 1}},
            "image_url.min_pixels",
            "min_pixels=2 is more than max_pixels=1",
        ),
    ],
)
def test_options_of_a_medium_that_exclude_each_other_are_told_with_their_place(part, param, words):
    place = f"messages.1.content.0.{param}"
    with pytest.raises(RequestError) as refused:
        READER.read(ChatRequest(messages=[*HELLO, {"role": "user", "content": [part]}]))
    assert (refused.value.param, refused.value.code, str(refused.value)) == (
        place,
        "invalid_option",
        f"{place}: {words}",
    )
    with pytest.raises(RequestError) as refused:
        READER.medium(FramesRequest.model_validate({"part": part}).part, "part")
    assert refused.value.param == f"part.{param}"


@pytest.mark.parametrize(
    ("form", "key", "meant"),
    [
        (ResponsesRequest, "response_format", "text.format"),
        (ResponsesRequest, "messages", "input"),
        (ResponsesRequest, "max_tokens", "max_output_tokens"),
        (ChatRequest, "input", "messages"),
        (ChatRequest, "max_output_tokens", "max_tokens"),
        (CompletionRequest, "messages", "prompt"),
        (MessagesRequest, "instructions", "system"),
        (MessagesRequest, "stop", "stop_sequences"),
        (CountRequest, "input", "messages"),
    ],
)
def test_a_key_of_another_api_is_told_with_the_one_that_is_meant(form, key, meant):
    error = refused({key: []}, form)
    assert (error.param, str(error)) == (key, f"{key}: unknown key; did you mean {meant!r}?")


@pytest.mark.parametrize("form", [ChatRequest, CompletionRequest, ResponsesRequest, CountRequest, MessagesRequest])
def test_what_is_meant_by_a_key_of_another_api_is_a_key_here(form):
    for key, meant in form.OF_OTHERS.items():
        place = Place.of(meant.split("."), form)
        assert ".".join(place.steps) == meant and key not in form.model_fields


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "system"},
        {"role": "developer", "content": None},
        {"role": "tool", "tool_call_id": "1"},
    ],
)
def test_a_message_without_content_is_refused(message):
    with pytest.raises(RequestError, match="needs a content: a text, which may be empty, or parts") as refused:
        READER.read(parsed(ChatRequest, json.dumps({"messages": [*HELLO, message]}).encode()))
    assert (refused.value.status, refused.value.param) == (400, "messages.1.content")


def test_an_empty_text_is_a_content_and_the_assistant_needs_none():
    for message in ({"role": "user", "content": ""}, {"role": "assistant"}, {"role": "assistant", "content": None}):
        query = READER.read(parsed(ChatRequest, json.dumps({"messages": [*HELLO, message]}).encode())).query
        assert query.turn[1] == {"role": message["role"], "content": ""}


def test_a_message_without_content_is_told_in_the_words_of_its_api():
    asked = [{"role": "user", "content": []}]
    assert unread(MessageExchange, {"system": "s", "messages": asked, "max_tokens": 1}).param == "messages"
    assert unread(ResponseExchange, {"instructions": "s", "input": asked}).param == "input"


# --- results without their calls -------------------------------------------------------------------------------------


def unread(kind, body):
    """The refusal of a request to an API, in its words."""
    caller = Caller("1", "", "mossvl-tiny", None, StoredResponses(1 << 20, 60))
    exchange = kind(parsed(kind.form, json.dumps(body).encode()), caller)
    with pytest.raises((InputError, RequestError)) as found:
        exchange.asked(READER)
    return refusal(exchange.placed(found.value))


RESULT = {"type": "tool_result", "tool_use_id": "b", "content": "4"}
OUTPUT = {"type": "function_call_output", "call_id": "b", "output": "4"}
CALL = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("kind", "body", "param", "words"),
    [
        (
            MessageExchange,
            {"system": "s", "messages": [*HELLO, {"role": "user", "content": [RESULT]}], "max_tokens": 1},
            "messages",
            "messages.1.content.0 is a tool_result, but there is no tool_use with the id 'b' before it; send the "
            "assistant's message with its tool_use, too",
        ),
        (
            ResponseExchange,
            {"instructions": "s", "input": [OUTPUT]},
            "input",
            "input.0 is a function_call_output, but there is no call at all before it; send the function_call, too, or "
            "the previous_response_id of the response that has it",
        ),
        (
            ResponseExchange,
            {"input": [CALL, OUTPUT]},
            "input",
            "input.1 is a function_call_output, but there is no call with the call_id 'b' before it; send the "
            "function_call, too, or the previous_response_id of the response that has it",
        ),
        (
            MessageExchange,
            {
                "messages": [{"role": "user", "content": [{"type": "tool_use", "id": "b", "name": "f", "input": {}}]}],
                "max_tokens": 1,
            },
            "messages",
            "messages.0.content.0: only a message of the role 'assistant' has a tool_use",
        ),
    ],
)
def test_a_result_without_its_call_is_told_in_the_words_of_its_api(kind, body, param, words):
    error = unread(kind, body)
    assert (error.status, error.param, str(error)) == (400, param, words)


DEEP: dict = {}
for _ in range(100):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("kind", "body", "param", "place"),
    [
        (ResponseExchange, {"input": [CALL, CALL | {"arguments": '{"a": NaN}'}]}, "input", "input.1.arguments"),
        (
            MessageExchange,
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "b", "name": "f", "input": DEEP}]},
                ],
                "max_tokens": 1,
            },
            "messages",
            "messages.1.content.0.input",
        ),
    ],
)
def test_malformed_arguments_of_a_call_are_told_in_the_words_of_its_api(kind, body, param, place):
    error = unread(kind, body)
    assert (error.status, error.param) == (400, param)
    assert str(error).startswith(f"{place} must be a JSON object of few levels")


def test_an_output_may_follow_the_call_of_a_response_that_it_continues():
    before = [{"role": "assistant", "content": None, "tool_calls": [{"id": "b"}]}]
    output = ResponsesRequest(input=[OUTPUT]).input
    (message,) = Conversation(dict).messages(output, before)
    assert message == {"role": "tool", "tool_call_id": "b", "content": "4"}
