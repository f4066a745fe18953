"""LangChain's chat model for OpenAI."""

from typing import Literal

import pytest
from pydantic import BaseModel

langchain = pytest.importorskip("langchain_openai", reason="no langchain-openai; .ci/clients installs it")


@pytest.fixture
def model(base_url, key):
    return langchain.ChatOpenAI(model="mossvl-tiny", base_url=base_url, api_key=key, max_retries=0)


def asking(question: str, image: str) -> list[tuple]:
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
    return [("system", "Be brief."), ("user", parts)]


def test_a_picture_is_answered(model, sign):
    answer = model.invoke(asking("What is written there?", sign))
    assert answer.text == "MOSS"
    assert answer.usage_metadata["output_tokens"] > 0


def test_an_answer_is_streamed(model, sign):
    assert "".join(chunk.text for chunk in model.stream(asking("What is written there?", sign))) == "MOSS"


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


@pytest.mark.parametrize("choice", ["required", "any", "Weather"])
def test_a_tool_that_is_bound_is_called(model, choice):
    answer = model.bind_tools([Weather], tool_choice=choice).invoke("How is the weather in Köln?")
    (call,) = answer.tool_calls
    assert call["name"] == "Weather" and Weather(**call["args"])
    from langchain_core.messages import HumanMessage, ToolMessage

    messages = [HumanMessage("How is it?"), answer, ToolMessage("clear", tool_call_id=call["id"])]
    assert model.bind(max_tokens=4).invoke(messages).type == "ai"


def test_a_call_is_streamed(model):
    chunks = list(model.bind_tools([Weather], tool_choice="any").stream("How is the weather in Köln?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > 3 and Weather(**whole.tool_calls[0]["args"])


@pytest.mark.parametrize("method", [None, "function_calling", "json_schema"])
def test_an_answer_has_a_structure(model, method):
    options = {} if method is None else {"method": method}
    sky = Literal["clear", "cloudy"]
    form = Weather if method == "function_calling" else type("Sky", (BaseModel,), {"__annotations__": {"sky": sky}})
    assert isinstance(model.with_structured_output(form, **options).invoke("How is the sky?"), form)
