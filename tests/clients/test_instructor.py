"""instructor, in its default mode: a model of pydantic's as a function that is called."""

from typing import Literal

import pytest
from pydantic import BaseModel

instructor = pytest.importorskip("instructor", reason="no instructor; .ci/clients installs it")


class Part(BaseModel):
    colour: Literal["red", "blue"]
    size: float | None = None


class Thing(BaseModel):
    """A thing in a picture."""

    name: str
    count: int
    parts: list[Part]


@pytest.fixture
def client(base_url, key):
    import openai

    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as plain:
        yield instructor.from_openai(plain)


def asking(image: str) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What is there?"}]
    return [{"role": "user", "content": parts}]


def test_an_answer_is_a_model_of_pydantics(client, sign):
    thing = client.create(model="mossvl-tiny", response_model=Thing, messages=asking(sign), max_retries=0)
    assert isinstance(thing, Thing) and all(isinstance(part, Part) for part in thing.parts)


def test_an_answer_grows_as_it_is_streamed(client, sign):
    grown = list(client.create_partial(model="mossvl-tiny", response_model=Thing, messages=asking(sign), max_retries=0))
    assert len(grown) > 3 and grown[0].count is None and isinstance(grown[-1].count, int)
