"""Checkpoints with random weights, for models that are cut among processes."""

import shutil

import torch
from golden_cases import CHECKPOINT

import mossvl
from mossvl import MossVLConfig
from mossvl.loading import random_model


def random_checkpoint(folder, **text):
    """A checkpoint as the golden one, with eight heads, and random weights."""
    for path in CHECKPOINT.glob("*.json"):
        shutil.copy(path, folder)
    config = MossVLConfig.from_pretrained(CHECKPOINT)
    divided = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 256}
    for name, value in {**divided, **text}.items():
        setattr(config.text_config, name, value)
    model = random_model(config, "cpu", "float32", seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.bias"):
            parameter.data.normal_(std=0.02, generator=generator)
    model.save_pretrained(folder)
    return folder


def engine(loaded, **options):
    """`MossVL` over a loaded model."""
    return mossvl.MossVL(*loaded, **{"memory": 1 << 24, **options})
