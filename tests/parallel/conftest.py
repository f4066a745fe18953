"""Models that are cut among several processes, which tests share: a process takes seconds to start."""

import pytest
from cut_models import random_checkpoint
from golden_cases import CHECKPOINT

import mossvl


@pytest.fixture(scope="session")
def halves():
    """The golden checkpoint in float32, cut among two processes: (model, processor)."""
    yield from cut(CHECKPOINT, 2)


@pytest.fixture(scope="session")
def quartered(tmp_path_factory):
    """A checkpoint with random weights and biases, whose heads four processes can divide."""
    return random_checkpoint(tmp_path_factory.mktemp("quartered"), attention_bias=True)


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """As `quartered`, without biases, so that weights may be quantized."""
    return random_checkpoint(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def quarters(quartered):
    """That checkpoint, cut among four processes: (model, processor)."""
    yield from cut(quartered, 4)


def cut(checkpoint, size, **options):
    model, processor = mossvl.load(checkpoint, "cpu", "float32", tensor_parallel_size=size, **options)
    yield model, processor
    model.ranks.close()
