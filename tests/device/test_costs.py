"""What steps are estimated to cost before any was measured."""

import pytest
from torch import nn

from mossvl.device.budget import SPEEDS, costs_for


def weights_of(*parts):
    return sum(
        one.weight.numel() for part in parts for one in part.modules() if isinstance(one, nn.Linear | nn.Embedding)
    )


def test_costs_are_estimated_by_operations_and_bytes(model):
    flops, read, beside = SPEEDS["cpu"]
    costs = costs_for(model).seconds
    language = weights_of(model.model.language_model.layers, model.lm_head)
    assert costs.rows == costs.decode_rows == pytest.approx(2 * language / flops, rel=0.01)
    assert costs.steps == pytest.approx(4 * language / read + beside, rel=0.01)
    assert min(costs) > 0


def test_an_engine_learns_what_its_steps_cost(make):
    llm = make()
    before = llm.engine.scheduler.costs.seconds
    llm.generate({"prompt": "yes", "generate_kwargs": {"max_new_tokens": 4}})
    after = llm.engine.scheduler.costs.seconds
    assert before == llm.engine.scheduler.costs.estimate
    assert after.steps != before.steps and after.rows != before.rows and after.patches == before.patches
