"""What clients need to reach the server, and pictures to ask about."""

import base64
import os
from pathlib import Path

import pytest

# Before a client is imported: none may look anything up, or tell anybody what is asked.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LANGSMITH_TRACING"] = "false"

EXAMPLES = Path(__file__).parents[2] / "examples"


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("clients")


@pytest.fixture(scope="session")
def base_url(server) -> str:
    """Of OpenAI's routes."""
    return f"{server.url}/v1"


@pytest.fixture(scope="session")
def key() -> str:
    """Any key: the server asks for none, but clients want one."""
    return "none"


def data_url(file: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((EXAMPLES / file).read_bytes()).decode()}"


@pytest.fixture(scope="session")
def sign() -> str:
    """The URL of a picture with the letters MOSS."""
    return data_url("sign.png", "image/png")


@pytest.fixture(scope="session")
def clip() -> str:
    """The URL of a clip in which a blue star appears at two seconds."""
    return data_url("clip.mp4", "video/mp4")
