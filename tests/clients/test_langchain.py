"""LangChain's chat model for OpenAI."""

import pytest

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
