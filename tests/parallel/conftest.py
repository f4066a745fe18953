"""Models that are cut among several processes, which tests share: a process takes seconds to start."""

import pytest
import torch
from golden_cases import CHECKPOINT

import mossvl
from mossvl import MossVLConfig
from mossvl.loading import random_model


@pytest.fixture(scope="session")
def halves(processor):
    """The golden checkpoint in float32, cut among two processes: (model, processor)."""
    yield from cut(CHECKPOINT, 2)


@pytest.fixture(scope="session")
def quartered(tmp_path_factory, golden):
    """A checkpoint with random weights, whose heads four processes can divide."""
    config = MossVLConfig.from_pretrained(golden / "checkpoint")
    text = config.text_config
    text.num_attention_heads, text.num_key_value_heads, text.attention_bias = 8, 4, True
    model = random_model(config, "cpu", "float32", seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "proj" in name:
            parameter.data.normal_(std=0.02, generator=generator)
    folder = tmp_path_factory.mktemp("quartered")
    model.save_pretrained(folder)
    mossvl.load(golden / "checkpoint", "cpu", "float32")[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quarters(quartered):
    """That checkpoint, cut among four processes: (model, processor)."""
    yield from cut(quartered, 4)


def cut(checkpoint, size, **options):
    model, processor = mossvl.load(checkpoint, "cpu", "float32", tensor_parallel_size=size, **options)
    yield model, processor
    model.ranks.close()
