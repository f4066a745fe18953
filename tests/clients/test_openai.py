"""OpenAI's own client for Python."""

from typing import Literal

import pytest
from pydantic import BaseModel

openai = pytest.importorskip("openai", reason="no openai; .ci/clients installs it")

QUESTION = "What is written there?"


class Thing(BaseModel):
    colour: Literal["red", "blue"]
    seen: bool


@pytest.fixture(scope="module")
def client(base_url, key):
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        yield client


def asking(question: str, image: str | None = None) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": image}}] if image else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def test_a_picture_is_answered(client, sign):
    answer = client.chat.completions.create(model="mossvl-tiny", messages=asking(QUESTION, sign))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("MOSS", "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_an_answer_is_streamed(client, clip):
    video = {"type": "video_url", "video_url": {"url": clip}}
    question = {"type": "text", "text": "When does the blue star appear?"}
    messages = [{"role": "user", "content": [video, question]}]
    chunks = client.chat.completions.create(model="mossvl-tiny", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "2.0 seconds"


def test_the_helper_of_streams_ends_with_the_whole_answer(client, sign):
    with client.chat.completions.stream(model="mossvl-tiny", messages=asking(QUESTION, sign)) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "MOSS"
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)


def test_an_answer_is_parsed_by_a_model_of_pydantics(client):
    answer = client.beta.chat.completions.parse(
        model="mossvl-tiny", messages=asking("Which colour is it?"), response_format=Thing
    )
    assert isinstance(answer.choices[0].message.parsed, Thing)


class Add(BaseModel):
    """Add two numbers."""

    a: int
    b: Literal[1, 2]


def test_calls_are_streamed_and_parsed(client):
    tools = [openai.pydantic_function_tool(Add)]
    options = {"model": "mossvl-tiny", "tools": tools, "tool_choice": "required", "messages": asking("Add 1 and 2.")}
    chunks = list(client.chat.completions.create(stream=True, **options))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls[0].function.name == "Add" and chunks[-1].choices[0].finish_reason == "tool_calls"
    Add.model_validate_json("".join(call.function.arguments for call in calls))
    with client.chat.completions.stream(**options) as stream:
        kinds = [event.type for event in stream]
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert "tool_calls.function.arguments.done" in kinds and isinstance(call.function.parsed_arguments, Add)
    (call,) = client.chat.completions.parse(**options).choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Add)


# --- responses -------------------------------------------------------------------------------------------------------


def seen(*parts):
    return [{"role": "user", "content": list(parts)}]


def test_a_response_is_created_streamed_continued_and_deleted(client, sign):
    given = seen({"type": "input_image", "image_url": sign, "detail": "auto"}, {"type": "input_text", "text": QUESTION})
    first = client.responses.create(model="mossvl-tiny", input=given)
    assert first.output_text == "MOSS" and client.responses.retrieve(first.id).output_text == "MOSS"
    with client.responses.stream(model="mossvl-tiny", input=QUESTION, previous_response_id=first.id) as stream:
        kinds = [event.type for event in stream]
        second = stream.get_final_response()
    assert second.output_text and second.previous_response_id == first.id
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_response_is_parsed_and_its_calls_too(client):
    parsed = client.responses.parse(model="mossvl-tiny", input="Which colour is it?", text_format=Thing)
    assert isinstance(parsed.output_parsed, Thing)
    tools = [openai.pydantic_function_tool(Add)["function"] | {"type": "function"}]
    options = {"model": "mossvl-tiny", "input": "Add 1 and 2.", "tools": tools, "tool_choice": "required"}
    with client.responses.stream(**options) as stream:
        kinds = [event.type for event in stream]
        call = stream.get_final_response().output[0]
    assert "response.function_call_arguments.done" in kinds
    assert Add.model_validate_json(call.arguments)
    call = client.responses.create(**options).output[0]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    asked = {"role": "user", "content": "Add 1 and 2."}
    alone = client.responses.create(model="mossvl-tiny", input=[asked], max_output_tokens=8)
    told = client.responses.create(model="mossvl-tiny", input=[asked, call, result], max_output_tokens=8)
    assert told.error is None and told.usage.input_tokens > alone.usage.input_tokens  # It may have nothing to say.


def test_prompts_are_completed(client):
    answer = client.completions.create(model="mossvl-tiny", prompt=["Hello", "What"], logprobs=1, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1] and answer.choices[1].text.startswith("What")
    chunks = client.completions.create(model="mossvl-tiny", prompt="Hello", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text.removeprefix("Hello")
