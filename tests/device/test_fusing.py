"""Weights of linears with the same input lie side by side, of whatever kind they are, and stay what they were."""

import pytest
import torch
from torch import nn

from mossvl.device.fusing import fuse, groups, join, joined
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.nf4 import Nf4Linear
from mossvl.quantization.schemes import own_schemes, replace

OUTS, INNER = (48, 16, 80), 256
QUANTIZED = [Fp8Linear, Int4Linear, Nf4Linear]


def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(outs, INNER, generator=generator) for outs in OUTS]


def plain(weight):
    linear = nn.Linear(INNER, len(weight), bias=False)
    linear.weight.data = weight
    return linear


@pytest.mark.parametrize("kind", QUANTIZED)
def test_joined_weights_are_those_of_the_linears(kind):
    linears = [kind.quantize(weight) for weight in weights()]
    before = [linear.dequantized(torch.float32) for linear in linears]
    assert joined(linears) is None
    join(linears)
    for linear, dense in zip(linears, before, strict=True):
        assert torch.equal(linear.dequantized(torch.float32), dense)
    views = joined(linears)
    for view, name in zip(views, dict(linears[0].named_buffers()), strict=True):
        parts = [dict(linear.named_buffers())[name] for linear in linears]
        assert view.data_ptr() == parts[0].data_ptr()
        assert torch.equal(view.view(torch.uint8), torch.cat([part.view(torch.uint8) for part in parts]))


def test_joined_plain_weights_are_one_tensor():
    linears = [plain(weight) for weight in weights()]
    join(linears)
    (view,) = joined(linears)
    assert torch.equal(view, torch.cat(weights()))


@pytest.mark.parametrize(
    "linears",
    [
        [Fp8Linear(INNER, 8), Int4Linear(INNER, 8)],
        [Int4Linear(INNER, 8, group=128), Int4Linear(INNER, 8, group=64)],
        [Fp8Linear(INNER, 8), Fp8Linear(INNER, 8, scale_dtype=torch.float32)],
        [nn.Linear(INNER, 8), nn.Linear(INNER, 8)],
    ],
    ids=["kinds", "groups", "dtypes of scales", "biases"],
)
def test_linears_that_differ_are_not_joined(linears):
    join(linears)
    assert joined(linears) is None


@pytest.mark.parametrize("kind", ["fp8", "int4", "nf4"])
def test_a_quantized_model_is_fused(kind, model):
    config = type(model.config).from_dict(model.config.to_dict())
    quantized = type(model)(config)
    replace(quantized, own_schemes(quantized, kind))
    fuse(quantized)
    assert all(joined(linears) is not None for linears in groups(quantized))
