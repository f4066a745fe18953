"""Products of 8-bit integers on a CPU: exact, whoever is beside a row, and near those of the weights."""

import pytest
import torch
from torch import nn

from mossvl.errors import OptionError
from mossvl.options.engine import check_quantization
from mossvl.quantization import int8
from mossvl.quantization.int8 import FEW_ROWS, Int8Linear


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return Int8Linear.quantize(torch.randn(40, 192))


needs_integers = pytest.mark.skipif(not int8.multiplies_integers(), reason="this CPU's products of integers saturate")


@needs_integers
@pytest.mark.parametrize("rows", [0, 1, 2, FEW_ROWS, FEW_ROWS + 1, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_integers(linear, rows, dtype):
    x = (3 * torch.randn(rows, 192)).to(dtype)
    scale = (x.float().abs().amax(1, keepdim=True) / 127) if rows else x.float()[:, :1]
    codes = (x.float() / scale).round()
    expected = (codes.double() @ linear.weight.double().T).float() * scale * linear.weight_scale.T
    assert torch.equal(linear(x), expected.to(dtype))


@needs_integers
def test_a_row_does_not_depend_on_its_neighbours(linear):
    x = torch.randn(60, 192) * torch.logspace(-3, 3, 60)[:, None]
    together = linear(x)
    assert torch.equal(together, torch.cat([linear(row) for row in x.split(1)]))
    assert torch.equal(together[:5], linear(x[:5]))
    assert torch.equal(together.view(3, 20, 40), linear(x.view(3, 20, 192)))


def test_products_are_near_those_of_the_weights(linear, monkeypatch):
    x = torch.randn(30, 192)
    exact = x @ linear.dequantized(torch.float32).T
    assert (linear(x) - exact).norm() < 0.02 * exact.norm()
    monkeypatch.setattr(int8, "multiplies_integers", lambda: False)
    assert torch.equal(linear(x), exact)


def test_rows_and_weights_of_zeros_give_zeros():
    linear = Int8Linear.quantize(torch.zeros(3, 64))
    assert not linear(torch.zeros(2, 64)).any() and not linear(torch.ones(30, 64)).any()


def test_training_has_the_gradient_of_the_weights(linear):
    x = torch.randn(4, 192, requires_grad=True)
    plain = nn.functional.linear(x, linear.dequantized(torch.float32))
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    (grad,) = torch.autograd.grad(linear(x).square().sum(), x)
    assert torch.equal(grad, expected)


def test_it_is_refused_on_a_gpu():
    check_quantization("int8", "cpu")
    with pytest.raises(OptionError, match="quantization='int8' is for CPUs; on cuda take 'fp8', 'int4' or 'nf4'"):
        check_quantization("int8", "cuda")
