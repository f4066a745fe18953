"""Adapters of maps with one input, computed together, give what PEFT's modules give, gradients included."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mossvl.model.adapters import AdaptedProducts, Adapter
from mossvl.model.layers import PlainProducts

WIDTHS = {"query": 24, "key": 16, "value": 16}
ROWS, IN = 9, 32


class Maps(nn.Module):
    def __init__(self, bias):
        super().__init__()
        for name, width in WIDTHS.items():
            setattr(self, name, nn.Linear(IN, width, bias=bias))


def maps(bias=False, dtype=torch.float32, **lora):
    """Maps with random adapters, as PEFT's modules, in one group."""
    torch.manual_seed(0)
    lora = {"r": 4, "lora_alpha": 6, "target_modules": list(WIDTHS), **lora}
    model = get_peft_model(Maps(bias), LoraConfig(**lora)).to(dtype)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model, [getattr(model.base_model.model, name) for name in WIDTHS]


def results_and_gradients(products, model, group):
    generator = torch.Generator().manual_seed(1)
    x = (
        torch.randn(ROWS, IN, generator=generator)
        .to(model.base_model.model.query.lora_A["default"].weight)
        .requires_grad_()
    )
    results = products.linears(x, group)
    model.zero_grad()
    sum((one * torch.randn(one.shape, generator=generator)).sum() for one in results).backward()
    return results, [x.grad, *(one.grad for one in model.parameters() if one.requires_grad)]


@pytest.mark.parametrize(
    "lora", [{}, {"rank_pattern": {"key": 2}, "alpha_pattern": {"value": 1}}, {"use_rslora": True}]
)
@pytest.mark.parametrize("bias", [False, True])
def test_adapters_computed_together_are_those_of_the_modules(lora, bias):
    model, group = maps(bias, torch.float64, **lora)
    assert all(Adapter.of(one) for one in group)
    expected, expected_gradients = results_and_gradients(PlainProducts(), model, group)
    results, gradients = results_and_gradients(AdaptedProducts(), model, group)
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_adapters_follow_autocast():
    model, group = maps()
    for one in group:
        one.base_layer.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_gradients = results_and_gradients(PlainProducts(), model, group)
        results, gradients = results_and_gradients(AdaptedProducts(), model, group)
    assert [one.dtype for one in results] == [torch.bfloat16] * 3
    torch.testing.assert_close(results, expected, atol=0.05, rtol=0.02)
    for gradient, told in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == told.dtype
        assert (gradient - told).norm() <= 0.01 * told.norm()


def test_results_have_the_dtype_of_the_maps_without_autocast():
    _, group = maps()
    for one in group:
        one.base_layer.bfloat16()
    x = torch.randn(ROWS, IN, dtype=torch.bfloat16)
    results = AdaptedProducts().linears(x, group)
    torch.testing.assert_close(results, PlainProducts().linears(x, group))


def merged(model):
    model.merge_adapter()


def disabled(model):
    model.base_model.disable_adapter_layers()


def with_another(model):
    model.add_adapter("another", LoraConfig(r=2, target_modules=list(WIDTHS)))
    model.base_model.set_adapter(["default", "another"])


def with_a_hook(model):
    next(one for one in model.modules() if hasattr(one, "lora_A")).register_forward_hook(lambda *call: 2 * call[2])


def with_a_hook_inside(model):
    next(one for one in model.modules() if hasattr(one, "lora_A")).lora_B["default"].register_forward_hook(
        lambda *call: 2 * call[2]
    )


@pytest.mark.parametrize("changed", [merged, disabled, with_another, with_a_hook, with_a_hook_inside])
def test_modules_in_another_state_compute_themselves(changed):
    model, group = maps()
    changed(model)
    x = torch.randn(ROWS, IN)
    torch.testing.assert_close(AdaptedProducts().linears(x, group), PlainProducts().linears(x, group))


@pytest.mark.parametrize("lora", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_adapters_of_another_kind_compute_themselves(lora):
    _, group = maps(bias=True, **lora)
    x = torch.randn(ROWS, IN)
    torch.manual_seed(2)
    expected = PlainProducts().linears(x, group)
    torch.manual_seed(2)
    torch.testing.assert_close(AdaptedProducts().linears(x, group), expected, rtol=0, atol=0)


def test_maps_of_which_only_some_have_adapters_compute_themselves():
    _, group = maps(target_modules=["query", "value"])
    x = torch.randn(ROWS, IN)
    torch.testing.assert_close(AdaptedProducts().linears(x, group), PlainProducts().linears(x, group), rtol=0, atol=0)
