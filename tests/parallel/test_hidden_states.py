"""Layer by layer, a model that is cut among processes has the hidden states of the whole one."""

import pytest
import torch
from cut_models import engine
from golden_cases import CASES

TOLERANCE = 1e-5
"""Of hidden states in float32, relative to the largest of their layer: sums over ranks have another order."""


def hidden_states(llm, case):
    """{name of a layer: its outputs (rows, hidden) for prompt and answer}, of layers that compute; and the answer."""
    language = llm.model.model.language_model
    parts = {f"layer {number}": layer for number, layer in enumerate(language.layers)} | {"norm": language.norm}
    seen = {name: [] for name in parts}
    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: seen[name].append(out.clone()))
        for name, part in parts.items()
    ]
    try:
        asked = {**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}}
        text = llm.generate(asked, progress=False).text
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(outputs) for name, outputs in seen.items() if outputs}, text


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_are_those_of_one_process(halves, make, name):
    whole, text = hidden_states(make(), CASES[name])
    with engine(halves) as llm:
        cut, own = hidden_states(llm, CASES[name])
    assert own == text == CASES[name]["text"] and cut.keys() == whole.keys()
    for layer, expected in whole.items():
        assert cut[layer].shape == expected.shape and expected.any()
        assert (cut[layer] - expected).abs().max() <= TOLERANCE * expected.abs().max(), layer
