"""Responses that call functions, are stored and continued, asked for with OpenAI's client over a real socket."""

import json
from itertools import groupby

import httpx
import openai
import pytest
from responding import CLIP, SIGN, WRITTEN, client_of, respond, user
from running import PATIENCE, waited


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


# --- functions -------------------------------------------------------------------------------------------------------

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Köln", "Bonn"]}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}
NOW = {"type": "function", "name": "now"}
CHOSEN = {"tools": [WEATHER, NOW], "tool_choice": {"type": "function", "name": "weather"}}


def test_a_named_function_is_called_and_its_result_continues_the_response(client):
    first = respond(client, "What is the weather?", **CHOSEN)
    (call,) = first.output
    assert (call.type, call.name, call.status, first.output_text) == ("function_call", "weather", "completed", "")
    arguments = json.loads(call.arguments)
    assert arguments["city"] in ("Köln", "Bonn") and isinstance(arguments["days"], int)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 °C"}
    second = respond(client, [result], previous_response_id=first.id, max_output_tokens=8)
    asked = {"role": "user", "content": "What is the weather?"}
    plain = respond(client, [asked, call.model_dump(exclude_none=True), result], max_output_tokens=8)
    referred = respond(client, [asked, {"type": "item_reference", "id": call.id}, result], max_output_tokens=8)
    assert second.output_text == plain.output_text == referred.output_text != ""
    assert second.usage.input_tokens == plain.usage.input_tokens == referred.usage.input_tokens


def test_of_allowed_tools_alone_one_is_called(client):
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [NOW]}
    (call,) = respond(client, "What time is it?", tools=[WEATHER, NOW], tool_choice=allowed).output
    assert (call.name, json.loads(call.arguments)) == ("now", {})


def test_a_streamed_call_has_its_arguments_in_pieces(client):
    whole = respond(client, "What is the weather?", **CHOSEN)
    events = list(respond(client, "What is the weather?", stream=True, **CHOSEN))
    assert [kind for kind, _ in groupby(event.type for event in events)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == whole.output[0].arguments == events[-1].response.output[0].arguments
    assert events[-2].item == events[-1].response.output[0]
    assert events[2].item.arguments == "" and events[2].item.call_id == events[-2].item.call_id


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tools": [NOW], "tool_choice": {"type": "function", "name": "no"}}, "no function 'no'"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "letters"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "a"}]}, "no call at all before it"),
    ],
)
def test_what_cannot_be_used_of_functions_is_refused(client, given, words):
    with pytest.raises(openai.BadRequestError, match=words):
        client.post("/responses", body={"input": "a"} | given, cast_to=object)


# --- stored responses ------------------------------------------------------------------------------------------------


def test_a_response_is_continued_and_found_until_it_is_deleted(client):
    video = {"type": "input_video", "video_url": CLIP}
    first = respond(client, user(video, {"type": "input_text", "text": "When does the blue star appear?"}))
    second = respond(client, "Which way does the red circle move?", previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("right", first.id)
    assert second.usage.input_tokens_details.cached_tokens > 50
    third = respond(client, "When does the blue star appear?", previous_response_id=second.id)
    assert third.output_text == "2.0 seconds"
    assert client.responses.retrieve(second.id) == second
    client.responses.delete(first.id)
    for wanted in (first.id, second.id):
        with pytest.raises(openai.NotFoundError, match=first.id) as refused:
            respond(client, "?", previous_response_id=wanted)
        assert (refused.value.code, refused.value.param) == ("response_not_found", "previous_response_id")
    with pytest.raises(openai.NotFoundError, match=first.id):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(first.id)


def test_instructions_are_not_carried_over(client):
    first = respond(client, "Hello", instructions="Be short. " * 20)
    second = respond(client, "Hello", previous_response_id=first.id)
    assert second.usage.input_tokens < first.usage.input_tokens
    assert second.instructions is None


def test_a_streamed_response_is_stored_and_its_item_can_be_referred_to(client):
    events = list(respond(client, user(SIGN, WRITTEN), stream=True))
    stored = client.responses.retrieve(events[-1].response.id)
    assert stored == events[-1].response
    given = [*user(SIGN, WRITTEN), {"type": "item_reference", "id": stored.output[0].id}, *user(WRITTEN)]
    plain = [*user(SIGN, WRITTEN), {"role": "assistant", "content": "MOSS"}, *user(WRITTEN)]
    assert respond(client, given).usage.input_tokens == respond(client, plain).usage.input_tokens
    with pytest.raises(openai.NotFoundError) as refused:
        respond(client, [{"type": "item_reference", "id": "msg_1_0"}, *user(WRITTEN)])
    assert refused.value.param == "input"
    with pytest.raises(openai.NotFoundError, match="there is no item 'mine'; expected the id") as refused:
        respond(client, [{"type": "item_reference", "id": "mine"}, *user(WRITTEN)])
    assert (refused.value.code, refused.value.param) == ("item_not_found", "input")


def test_parameters_that_a_stored_response_does_not_know_are_refused(client):
    response = respond(client, "Hello!")
    known = {"include": ["message.output_text.logprobs"], "include_obfuscation": False}
    assert client.responses.retrieve(response.id, **known).id == response.id
    with pytest.raises(openai.BadRequestError, match="strem: unknown parameter; did you mean 'stream'") as refused:
        client.responses.retrieve(response.id, extra_query={"strem": "true"})
    assert refused.value.param == "strem"


def test_a_stored_response_is_not_streamed_again(client):
    response = respond(client, "Hello", max_output_tokens=1)
    with pytest.raises(openai.BadRequestError, match="leave out stream"):
        list(client.responses.retrieve(response.id, stream=True))


def test_what_is_not_to_be_stored_is_not_stored(client):
    response = respond(client, "Hello", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_client_that_goes_away_ends_its_response(server):
    def running() -> float:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        return sum(
            float(line.split()[1])
            for line in lines
            if line.startswith(("mossvl_requests_running ", "mossvl_requests_waiting "))
        )

    body = {"input": "Hello", "ignore_eos": True, "max_output_tokens": 5000, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/responses", json=body, timeout=PATIENCE) as response:
        lines = response.iter_lines()
        next(lines)
        assert running() >= 1
    waited(lambda: running() == 0, server)


def test_no_key_reaches_the_responses_of_another(keyed):
    url = f"{keyed.url}/v1"
    with openai.OpenAI(base_url=url, api_key="one") as one, openai.OpenAI(base_url=url, api_key="two") as two:
        first = respond(one, "Hello")
        for ask in (
            lambda: two.responses.retrieve(first.id),
            lambda: two.responses.delete(first.id),
            lambda: respond(two, "?", previous_response_id=first.id),
            lambda: respond(two, [{"type": "item_reference", "id": first.output[0].id}, *user(WRITTEN)]),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        assert one.responses.retrieve(first.id) == first
        for _ in range(2):
            respond(one, "Hello")
        with pytest.raises(openai.NotFoundError, match="--max-responses"):
            one.responses.retrieve(first.id)
