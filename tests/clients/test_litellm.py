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
