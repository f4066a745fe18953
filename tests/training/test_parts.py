"""Parts are switched one by one, and adapters attach to the chosen ones."""

from collections import Counter

import pytest
import torch
from torch import nn

from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.training.parts import Part, lora, part_of, train_only


@pytest.fixture
def untouched(model):
    with torch.device("meta"):
        return MossVLLMHeadModel(model.config)


def test_every_parameter_belongs_to_a_part(untouched):
    names = [name for name, _ in untouched.named_parameters()]
    parts = Counter(part_of(name, untouched.config) for name in names)
    assert set(parts) == set(Part)
    assert parts[Part.EMBEDDINGS] == 1 and parts[Part.LM_HEAD] == 2
    for name in names:
        assert (part_of(name, untouched.config) == Part.CROSS_ATTENTION) == (
            "cross_attn" in name or any(f"layers.{index}." in name for index in (1, 4))
        ), name


@pytest.mark.parametrize("part", list(Part))
def test_only_the_chosen_part_learns(part, untouched):
    train_only(untouched, [part])
    learning = {name for name, parameter in untouched.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in untouched.named_parameters() if part_of(name, untouched.config) == part}


def test_adapters_attach_to_linear_maps_of_the_chosen_parts(untouched):
    config = lora(untouched, [Part.CROSS_ATTENTION, Part.LM_HEAD], 4, 8, 0.0)
    modules = dict(untouched.named_modules())
    assert config.modules_to_save == ["lm_head"]
    assert len(config.target_modules) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert all(isinstance(modules[name], nn.Linear) for name in config.target_modules)


def test_a_head_that_is_the_embeddings_learns_with_them(untouched):
    untouched.config.tie_word_embeddings = True
    try:
        train_only(untouched, [Part.LM_HEAD])
        assert untouched.model.language_model.embed_tokens.weight.requires_grad
        config = lora(untouched, [Part.MERGER, Part.LM_HEAD], 4, 8, 0.0)
        assert config.modules_to_save == ["embed_tokens"] and config.ensure_weight_tying
    finally:
        untouched.config.tie_word_embeddings = False
