"""Anthropic's messages over a real socket, without its client: tests/clients has that."""

import base64
import json
import re
from itertools import groupby
from pathlib import Path

import httpx
import pytest
from running import PATIENCE, waited

from mossvl.server.errors import RequestError
from mossvl.server.exchange import Caller
from mossvl.server.messages import MessageExchange
from mossvl.server.schemas.messages import MessagesRequest
from mossvl.server.stored import StoredResponses

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITTEN = {"type": "text", "text": "What is written there?"}
ANYBODY = Caller("1", "", "mossvl-tiny", None, StoredResponses(1, 1, 1))
LONG = {"role": "user", "content": "Describe it in many words."}
ONE_BLOCK = [
    "message_start",
    "ping",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
]
"""Kinds of events of an answer that is one text or one call."""


def base64_of(file: str, kind: str) -> dict:
    data = base64.b64encode((EXAMPLES / file).read_bytes()).decode()
    return {"type": "base64", "media_type": kind, "data": data}


SIGN = {"type": "image", "source": base64_of("sign.png", "image/png")}
CLIP = {"type": "video", "source": base64_of("clip.mp4", "video/mp4")}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Köln", "Bonn"]}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
CHOSEN = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}


def post(server, path="/v1/messages", **body):
    return httpx.post(f"{server.url}{path}", json=body, timeout=PATIENCE)


def ask(server, *messages, **options):
    answer = post(server, **({"max_tokens": 100, "messages": list(messages)} | options))
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(server, *messages, **options):
    """The events of a stream, checked to be sent under their names."""
    answer = post(server, **({"max_tokens": 100, "messages": list(messages), "stream": True} | options))
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    lines = [line for line in answer.text.splitlines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert lines[::2] == [f"event: {event['type']}" for event in events]
    return events


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def text_of(answer):
    return "".join(block["text"] for block in answer["content"])


# --- requests --------------------------------------------------------------------------------------------------------


def test_pictures_and_clips_get_right_answers(server):
    with (EXAMPLES / "sign.png").open("rb") as file:
        uploaded = httpx.post(f"{server.url}/v1/files", files={"file": file}, timeout=PATIENCE).json()["id"]
    url = f"data:image/png;base64,{SIGN['source']['data']}"
    for source in (SIGN["source"], {"type": "file", "file_id": uploaded}, {"type": "url", "url": url}):
        assert text_of(ask(server, user({"type": "image", "source": source}, WRITTEN))) == "MOSS"
    answer = ask(server, user(CLIP | {"fps": 2}, {"type": "text", "text": "When does the blue star appear?"}))
    assert text_of(answer) == "2.0 seconds"
    assert len(answer["mossvl"]["media"][0]["timestamps"]) == 13


def test_a_conversation_is_the_same_as_a_chats(server):
    system = [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short.", "cache_control": {}}]
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "a"}
    said = {"role": "assistant", "content": [thought, {"type": "text", "text": "Hi"}]}
    answer = ask(server, user({"type": "text", "text": "Hello"}), said, LONG, system=system)
    chat = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": one["text"]} for one in system]},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
                LONG,
            ]
        },
        timeout=PATIENCE,
    ).json()
    assert text_of(answer) == chat["choices"][0]["message"]["content"]
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == chat["usage"]["prompt_tokens"]


def test_an_answer_continues_the_assistants_last_message(server):
    whole = text_of(ask(server, LONG))
    begun = whole[: whole.index(" ", 5)]
    continued = ask(server, LONG, {"role": "assistant", "content": begun})
    assert begun + text_of(continued) == whole


def test_an_answer_tells_why_it_ended(server):
    whole = text_of(ask(server, LONG))
    told = ask(server, LONG)
    assert (told["stop_reason"], told["stop_sequence"]) == ("end_turn", None)
    told = ask(server, LONG, max_tokens=2)
    assert (told["stop_reason"], told["usage"]["output_tokens"]) == ("max_tokens", 2)
    stop = whole[4:8]
    told = ask(server, LONG, stop_sequences=["never", stop])
    assert (told["stop_reason"], told["stop_sequence"], text_of(told)) == ("stop_sequence", stop, whole[:4])


def test_an_answer_has_the_form_that_is_asked_for(server):
    schema = {"type": "object", "properties": {"city": {"enum": ["Köln", "Bonn"]}}, "required": ["city"]}
    answer = ask(server, LONG, output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"})
    assert json.loads(text_of(answer)) in ({"city": "Köln"}, {"city": "Bonn"})


# --- functions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "weather"}, {"type": "any"}])
def test_a_function_is_called_and_its_result_is_taken(server, choice):
    options = {"tools": [WEATHER], "tool_choice": choice | {"disable_parallel_tool_use": True}}
    first = ask(server, LONG, **options)
    (call,) = first["content"]
    assert (first["stop_reason"], call["type"], call["name"]) == ("tool_use", "tool_use", "weather")
    assert call["input"]["city"] in ("Köln", "Bonn") and isinstance(call["input"]["days"], int)
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "12 °C"}]}
    said = {"role": "assistant", "content": first["content"]}
    second = ask(server, LONG, said, user(result, {"type": "text", "text": "And?"}), max_tokens=4)
    assert text_of(second)
    refused = post(server, max_tokens=1, messages=[LONG, said, user(result | {"tool_use_id": "toolu_1"})])
    assert refused.status_code == 400 and "toolu_1" in refused.json()["error"]["message"]


def test_a_streamed_call_has_its_arguments_in_pieces(server):
    (call,) = ask(server, LONG, **CHOSEN)["content"]
    events = stream(server, LONG, **CHOSEN)
    assert [kind for kind, _ in groupby(event["type"] for event in events)] == ONE_BLOCK
    assert events[2]["content_block"]["input"] == {} and events[2]["content_block"]["name"] == "weather"
    written = "".join(event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta")
    assert json.loads(written) == call["input"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "reason"), [(100, "end_turn"), (3, "max_tokens")])
def test_a_stream_has_anthropics_events_in_their_order(server, length, reason):
    asked = user(SIGN, {"type": "text", "text": "Describe the picture."})
    whole = ask(server, asked, max_tokens=length)
    events = stream(server, asked, max_tokens=length)
    assert [kind for kind, _ in groupby(event["type"] for event in events)] == ONE_BLOCK
    message = events[0]["message"]
    assert (message["content"], message["stop_reason"], message["role"]) == ([], None, "assistant")
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == text_of(whole) and len(deltas) >= 3
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"] == reason
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_a_stream_that_fails_ends_with_the_error():
    exchange = MessageExchange(MessagesRequest.model_validate({"messages": [LONG], "max_tokens": 1}), ANYBODY)
    (event,) = exchange.failed(RequestError(504, "timeout", "too late"))
    error = {"type": "timeout_error", "message": "too late", "code": "timeout", "param": None}
    assert event == {"type": "error", "error": error}


def test_a_silent_stream_is_kept_alive_by_pings():
    assert MessageExchange.alive == b'event: ping\ndata: {"type": "ping"}\n\n'


def test_a_client_that_goes_away_ends_its_answer(server):
    running = re.compile(r"^mossvl_requests_running 0\.0$", re.MULTILINE)
    body = {"messages": [LONG], "ignore_eos": True, "max_tokens": 5000, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/messages", json=body, timeout=PATIENCE) as response:
        lines = response.iter_lines()
        next(lines)
        assert not running.search(httpx.get(f"{server.url}/metrics").text)
    waited(lambda: running.search(httpx.get(f"{server.url}/metrics").text), server)


# --- counting --------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_as_they_are_used(server):
    asked = [user(SIGN, CLIP, WRITTEN)]
    for body in (
        {"messages": asked, "system": "Be short."},
        {"messages": [LONG], "tools": [WEATHER]},
        {"messages": [LONG, {"role": "assistant", "content": "In the"}]},
    ):
        counted = post(server, "/v1/messages/count_tokens", **body)
        used = post(server, max_tokens=1, **body).json()["usage"]
        assert counted.json() == {"input_tokens": used["input_tokens"] + used["cache_read_input_tokens"]}


def test_what_cannot_be_counted_is_refused(server):
    broken = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    for body, param in (({"messages": []}, "messages"), ({"messages": [LONG], "max_tokens": 1}, "max_tokens")):
        answer = post(server, "/v1/messages/count_tokens", **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = post(server, "/v1/messages/count_tokens", messages=[user(broken)])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_media")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"max_tokens": None}, "max_tokens", "required"),
        ({"max_tokens": 10**6}, "max_tokens", "--max-tokens"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"messages": [user({"type": "document"})]}, "messages.0.content.0", "'document' is none of 'text', 'image'"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text", "required"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role", "'king' is none of"),
        (
            {"messages": [user({"type": "image", "source": {"type": "s3"}})]},
            "messages.0.content.0.source",
            "'s3' is none of 'base64', 'url', 'file'",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "/a.png"}})]},
            "messages",
            "no URL of a known scheme",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type", "'custom'"),
        ({"tools": [{"type": "function", "name": "a"}]}, "tools.0.type", "'function' is none of 'custom'$"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "wether"}},
            "tool_choice",
            "did you mean 'weather'",
        ),
        ({"stop": ["a"]}, "stop", "unknown key"),
        ({"messages": [{"role": "user", "content": "a" * 500_001}]}, "messages", "--max-text"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, "messages", "context"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_used_is_refused_in_anthropics_form(server, given, param, words, streamed):
    answer = post(server, **({"messages": [LONG], "max_tokens": 5, "stream": streamed} | given))
    body = answer.json()
    error = body["error"]
    assert (answer.status_code, body["type"], error["type"]) == (400, "error", "invalid_request_error")
    assert error["param"] == param and re.search(words, error["message"])
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


def test_keys_and_sizes_are_refused_in_anthropics_form(keyed):
    url, key = f"{keyed.url}/v1/messages", {"x-api-key": "one"}
    answers = [
        httpx.post(url, json={}),
        httpx.post(url, headers=key, json={"messages": "a" * 5000}),
        httpx.get(url, headers=key),
        httpx.post(f"{url}/none", headers=key, json={}),
    ]
    kinds = [(answer.status_code, answer.json()["error"]["type"]) for answer in answers]
    assert kinds == [
        (401, "authentication_error"),
        (413, "request_too_large"),
        (405, "invalid_request_error"),
        (404, "not_found_error"),
    ]
    assert all(answer.json()["type"] == "error" for answer in answers)
    body = {"messages": [LONG], "max_tokens": 1}
    assert httpx.post(url, headers=key, json=body, timeout=PATIENCE).status_code == 200
