"""Anthropic's client for Python."""

import pytest

anthropic = pytest.importorskip("anthropic", reason="no anthropic; .ci/clients installs it")

QUESTION = {"type": "text", "text": "What is written there?"}
WEATHER = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {
        "type": "object",
        "properties": {"sky": {"enum": ["clear", "cloudy"]}},
        "required": ["sky"],
        "additionalProperties": False,
    },
}
ASKED = [{"role": "user", "content": "How is the weather?"}]


@pytest.fixture(scope="module")
def client(base_url, key):
    with anthropic.Anthropic(base_url=base_url.removesuffix("/v1"), api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def asked(sign):
    source = {"type": "base64", "media_type": "image/png", "data": sign.partition(",")[2]}
    content = [{"type": "image", "source": source}, QUESTION]
    return {"model": "mossvl-tiny", "max_tokens": 50, "messages": [{"role": "user", "content": content}]}


def test_a_picture_is_answered_whole_and_streamed(client, asked):
    answer = client.messages.create(**asked)
    assert (answer.content[0].text, answer.stop_reason) == ("MOSS", "end_turn")
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "MOSS"
        assert stream.get_final_message().usage.output_tokens == answer.usage.output_tokens


def test_tokens_are_counted(client, asked):
    counted = client.messages.count_tokens(model="mossvl-tiny", messages=asked["messages"])
    used = client.messages.create(**asked).usage
    assert counted.input_tokens == used.input_tokens + used.cache_read_input_tokens


def test_a_tool_is_called_streamed_and_its_result_sent_back(client):
    options = {"model": "mossvl-tiny", "max_tokens": 200, "tools": [WEATHER]}
    with client.messages.stream(messages=ASKED, tool_choice={"type": "any"}, **options) as stream:
        message = stream.get_final_message()
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert call.input in ({"sky": "clear"}, {"sky": "cloudy"}) and message.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees"}
    turns = [*ASKED, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(messages=turns, tool_choice={"type": "none"}, **options).content[0].text


def test_errors_are_told_by_their_kind(client, asked):
    with pytest.raises(anthropic.BadRequestError, match="--max-tokens") as refused:
        client.messages.create(**asked | {"max_tokens": 20_000}, timeout=60)
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()
