"""Pydantic AI: agents with a typed output, and with tools."""

from typing import Literal

import pytest
from pydantic import BaseModel

pydantic_ai = pytest.importorskip("pydantic_ai", reason="no pydantic-ai; .ci/clients installs it")


class Weather(BaseModel):
    city: str
    celsius: int
    sky: Literal["clear", "cloudy"]


@pytest.fixture
def model(base_url, key):
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel("mossvl-tiny", provider=OpenAIProvider(base_url=base_url, api_key=key))


def test_an_agent_with_a_tool_that_it_need_not_call_answers_about_a_picture(model, sign):
    from pydantic_ai import Agent, ImageUrl

    agent = Agent(model)

    @agent.tool_plain
    def letters(word: str) -> int:
        return len(word)

    assert agent.run_sync(["What is written there?", ImageUrl(url=sign)]).output == "MOSS"


def test_an_agent_with_a_tool_has_a_typed_output(model):
    from pydantic_ai import Agent, UsageLimits

    agent = Agent(model, output_type=Weather)
    asked = []

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "12 degrees, clear"

    try:
        answer = agent.run_sync("How is the weather in Köln?", usage_limits=UsageLimits(request_limit=3))
    except pydantic_ai.UsageLimitExceeded:  # The model may call the tool for ever; it was not trained to call any.
        assert len(asked) == 3
    else:
        assert isinstance(answer.output, Weather)


def test_an_output_is_streamed_as_it_grows(model):
    import asyncio

    from pydantic_ai import Agent

    async def outputs() -> list:
        async with Agent(model, output_type=Weather).run_stream("How is the weather in Köln?") as stream:
            return [output async for output in stream.stream_output(debounce_by=None)]

    grown = asyncio.run(outputs())
    assert isinstance(grown[-1], Weather)
