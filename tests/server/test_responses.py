"""Responses, asked for with OpenAI's client over a real socket."""

import base64
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel
from running import PATIENCE, serving, waited

from mossvl.server.errors import RequestError
from mossvl.server.exchange import Caller
from mossvl.server.responses import ResponseExchange
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.stored import StoredResponses

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITTEN = {"type": "input_text", "text": "What is written there?"}
LONG = "Describe it in many words."


def data_url(file: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((EXAMPLES / file).read_bytes()).decode()}"


SIGN = {"type": "input_image", "image_url": data_url("sign.png", "image/png"), "detail": "auto"}
CLIP = data_url("clip.mp4", "video/mp4")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0) as client:
        yield client


def respond(client, given, **options):
    return client.responses.create(model="mossvl-tiny", input=given, **options)


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


# --- input -----------------------------------------------------------------------------------------------------------


def test_a_picture_comes_by_url_as_an_upload_or_as_a_file(client):
    with (EXAMPLES / "sign.png").open("rb") as file:
        uploaded = client.files.create(file=file, purpose="vision").id
    raw = SIGN["image_url"].partition(",")[2]
    for part in (
        SIGN,
        {"type": "input_image", "file_id": uploaded},
        {"type": "input_file", "file_id": uploaded},
        {"type": "input_file", "file_data": SIGN["image_url"]},
        {"type": "input_file", "file_data": raw, "filename": "sign.png"},
        {"type": "image_url", "image_url": SIGN["image_url"]},
    ):
        assert respond(client, user(part, WRITTEN)).output_text == "MOSS", part


def test_a_clip_is_a_video_part_or_a_file_and_has_its_options(client):
    question = {"type": "input_text", "text": "When does the blue star appear?"}
    for part in (
        {"type": "input_video", "video_url": CLIP, "fps": 2},
        {"type": "video_url", "video_url": {"url": CLIP, "fps": 2}},
    ):
        answer = respond(client, user(part, question))
        assert answer.output_text == "2.0 seconds"
        assert len(answer.mossvl["media"][0]["timestamps"]) == 13
    assert respond(client, user({"type": "input_file", "file_data": CLIP}, question)).output_text == "2.0 seconds"


def test_an_input_is_the_same_conversation_as_a_chats(client):
    items = [
        {"role": "developer", "content": "Be short."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi", "annotations": []}]},
        {"role": "user", "content": LONG},
    ]
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": LONG},
    ]
    response = respond(client, items, instructions="Be kind.")
    chat = client.chat.completions.create(model="mossvl-tiny", messages=messages)
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.output_text == chat.choices[0].message.content


# --- the answer ------------------------------------------------------------------------------------------------------


def test_the_response_tells_what_was_asked_and_what_it_cost(client):
    options = {"instructions": "Be short.", "metadata": {"a": "b"}, "max_output_tokens": 50, "temperature": 0.5}
    response = respond(client, user(SIGN, WRITTEN), top_p=0.9, **options)
    assert {name: getattr(response, name) for name in options} == options
    assert (response.status, response.top_p, response.model) == ("completed", 0.9, "mossvl-tiny")
    usage = response.usage
    details = usage.input_tokens_details
    assert usage.input_tokens == details.text_tokens + details.vision_tokens
    assert details.vision_tokens == response.mossvl["media"][0]["vision_tokens"] > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_an_answer_of_full_length_is_incomplete(client):
    response = respond(client, LONG, max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    assert response.usage.output_tokens == 2


def test_an_answer_has_the_form_that_is_asked_for(client):
    class Thing(BaseModel):
        colour: Literal["red", "blue"]
        seen: bool

    parsed = client.responses.parse(model="mossvl-tiny", input="Which colour is it?", text_format=Thing)
    assert isinstance(parsed.output_parsed, Thing)
    assert parsed.text.format.type == "json_schema"
    response = respond(client, "?", text={"format": {"type": "json_object"}}, max_output_tokens=200)
    assert response.output_text.startswith("{")


def test_log_probabilities_come_if_they_are_included(client):
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (part,) = respond(client, user(SIGN, WRITTEN), **wanted).output[0].content
    assert "".join(one.token for one in part.logprobs).startswith("MOSS")
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)
    assert respond(client, "?", max_output_tokens=2).output[0].content[0].logprobs == []


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "status"), [(None, "completed"), (3, "incomplete")])
def test_a_stream_has_openais_events_in_their_order(client, length, status):
    given = user(SIGN, {"type": "input_text", "text": "Describe the picture."})
    whole = respond(client, given, max_output_tokens=length)
    events = list(respond(client, given, max_output_tokens=length, stream=True))
    assert [kind for kind, _ in groupby(event.type for event in events)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{status}",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text and len(deltas) >= 3
    last = events[-1].response
    assert (last.output_text, last.usage, last.status) == (whole.output_text, whole.usage, status)
    assert last.output[0] == events[-2].item
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {last.output[0].id}


def test_each_event_is_sent_under_its_name(server):
    body = {"input": "Hello", "stream": True, "max_output_tokens": 2}
    with httpx.stream("POST", f"{server.url}/v1/responses", json=body, timeout=PATIENCE) as response:
        lines = [line for line in response.iter_lines() if line]
    names, data = lines[::2], [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [f"event: {one['type']}" for one in data]


def test_the_helper_of_streams_ends_with_the_whole_response(client):
    with client.responses.stream(model="mossvl-tiny", input=user(SIGN, WRITTEN)) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "MOSS"


def test_a_stream_that_fails_ends_with_the_error():
    caller = Caller("1", "", "mossvl-tiny", None, StoredResponses(1, 1, 1))
    exchange = ResponseExchange(ResponsesRequest.model_validate({"input": "Hello"}), caller)
    told = [*exchange.opening(), *exchange.failed(RequestError(504, "timeout", "too late"))]
    error, last = told[-2:]
    assert [event["sequence_number"] for event in told] == [0, 1, 2, 3]
    assert error == {
        "type": "error", "sequence_number": 2, "code": "timeout", "message": "too late", "param": None,
    }  # fmt: skip
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "too late"}
    assert last["response"]["id"] == told[0]["response"]["id"]


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


def test_no_key_reaches_the_responses_of_another():
    with serving("--api-key", "one", "--api-key", "two", "--max-responses", "2") as running:
        url = f"{running.url}/v1"
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


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"input": []}, "input", "at least 1 item"),
        ({"input": "a" * 500_001}, "input", "--max-text"),
        ({"input": "a", "max_output_tokens": 10**6}, "max_output_tokens", "max_output_tokens: 1000000 .*--max-tokens"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"input": "a", "truncation": "auto"}, "truncation", "'disabled', not 'auto'"),
        ({"input": "a", "background": True}, "background", "False"),
        ({"input": "a", "conversation": "conv_1"}, "conversation", "unknown key"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0.type", "'web_search' is none of 'function'"),
        ({"input": "a", "include": ["everything"]}, "include.0", "message.output_text.logprobs"),
        ({"input": "a", "metadata": {"a": "b" * 513}}, "metadata", "at most 512 characters"),
        ({"input": "a", "messages": []}, "messages", "unknown key"),
        ({"input": "a", "max_output_token": 4}, "max_output_token", "did you mean 'max_output_tokens'"),
        ({"input": [{"type": "computer_call"}]}, "input.0", "'computer_call' is none of 'message'"),
        ({"input": [{"role": "king", "content": "a"}]}, "input.0.role", "'king' is none of"),
        ({"input": user({"type": "input_audio"})}, "input.0.content.0", "'input_audio' is none of 'input_text'"),
        ({"input": user({"type": "input_text"})}, "input.0.content.0.text", "required"),
        ({"input": user({"type": "input_image"})}, "input", "image_url, file_id"),
        ({"input": user({"type": "input_image", "image_url": "/a.png"})}, "input", "no URL of a known scheme"),
        ({"input": user({"type": "input_image", "file_id": "file-0"})}, "input", "no uploaded file"),
        (
            {"input": user({"type": "input_file", "file_data": "AA==", "filename": "a.pdf"})},
            "input",
            "no image and no video",
        ),
        (
            {"input": user({"type": "input_video", "video_url": "https://a.b/c", "fps": 0})},
            "input.0.content.0.fps",
            "0",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_field(server, given, param, words):
    answer = httpx.post(f"{server.url}/v1/responses", json=given, timeout=PATIENCE)
    error = answer.json()["error"]
    assert (answer.status_code in (400, 404), error["param"]) == (True, param)
    assert re.search(words, error["message"])
