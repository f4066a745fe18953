"""LiteLLM, as a library."""

import json

import pytest

litellm = pytest.importorskip("litellm", reason="no litellm; .ci/clients installs it")


@pytest.fixture
def complete(base_url, key):
    def complete(messages, **options):
        return litellm.completion(
            model="openai/mossvl-tiny", api_base=base_url, api_key=key, messages=messages, num_retries=0, **options
        )

    return complete


def asking(question: str, image: str) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_is_answered(complete, sign, stream):
    answer = complete(asking("What is written there?", sign), stream=stream)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    assert answer.choices[0].message.content == "MOSS"


def test_an_answer_has_the_schema_that_is_asked_for(complete, sign):
    schema = {
        "type": "object",
        "properties": {"letters": {"enum": [3, 4]}},
        "required": ["letters"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    answer = complete(asking("How many letters are there?", sign), response_format=form)
    assert json.loads(answer.choices[0].message.content)["letters"] in (3, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_called_and_its_result_sent_back(complete, stream):
    function = {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]},
    }
    options = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    question = {"role": "user", "content": "Add 1 and 2."}
    answer = complete([question], stream=stream, **options)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments)["a"] in (1, 2)
    result = {"role": "tool", "tool_call_id": call.id, "content": "3"}
    assert complete([question, message, result], max_tokens=4, tools=options["tools"]).choices


def test_a_prompt_that_is_too_long_is_told_as_such(complete):
    with pytest.raises(litellm.ContextWindowExceededError):
        complete([{"role": "user", "content": "long " * 20_000}])


def test_a_prompt_that_is_too_long_is_litellms_own_error(complete):
    with pytest.raises(litellm.ContextWindowExceededError):
        complete([{"role": "user", "content": "word " * 20_000}])


def test_fields_of_vllm_go_through(complete):
    question = [{"role": "user", "content": "Hello"}]
    answer = complete(
        question, extra_body={"guided_choice": ["left", "right"], "min_tokens": 1}, logit_bias={"5": -100}
    )
    assert answer.choices[0].message.content in ("left", "right")
