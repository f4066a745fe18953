"""Engines for tests: the golden checkpoint in float32, with little memory."""

import pytest

import mossvl

MEMORY = 1 << 24


@pytest.fixture
def make(model, processor):
    """`MossVL` over the golden checkpoint, with these options; closed at the end of the test."""
    made = []

    def new(**options):
        made.append(mossvl.MossVL(model, processor, **{"memory": MEMORY, **options}))
        return made[-1]

    yield new
    for llm in made:
        llm.close()


@pytest.fixture
def llm(make):
    return make()
