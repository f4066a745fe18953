"""Responses, asked for with OpenAI's client over a real socket."""

import json
import re
from itertools import groupby
from typing import Literal

import httpx
import pytest
from pydantic import BaseModel
from responding import CLIP, EXAMPLES, LONG, SIGN, WRITTEN, client_of, respond, user
from running import PATIENCE

from mossvl.server.errors import RequestError
from mossvl.server.exchange import Caller
from mossvl.server.responses import ResponseExchange
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.stored import StoredResponses


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


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
    assert "".join(deltas) == whole.output_text and all(deltas)
    assert length or len(deltas) > 1  # Of three tokens, a busy machine may find all at once.
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
        ({"input": "a", "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"input": "a", "text": {"format": {"type": "regex"}}}, "text.format", "needs a pattern"),
        ({"input": "a", "text": {"format": {"type": "regex", "pattern": "("}}}, "text.format", "cannot be used"),
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
