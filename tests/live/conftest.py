"""Models that speak and fall silent, and engines with them."""

import pytest
from live_streams import talkative

import mossvl


@pytest.fixture(scope="session")
def talker(loaded):
    return talkative(*loaded)


@pytest.fixture(scope="session")
def speaker(loaded):
    """A model that never falls silent."""
    return talkative(*loaded, factor=-1)


@pytest.fixture
def llm(talker, processor):
    with mossvl.MossVL(talker, processor, memory=1 << 26) as llm:
        yield llm


@pytest.fixture
def speaking(speaker, processor):
    with mossvl.MossVL(speaker, processor, memory=1 << 24) as llm:
        yield llm
