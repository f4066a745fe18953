"""Products with quantized weights against float64, over odd shapes, of one row, few and many; and whole models."""

import random

import pytest
import torch
from golden_cases import CASES
from torch import nn

import mossvl

pytest.importorskip("triton")
from mossvl.device.fused_products import FusedWeights
from mossvl.device.fusing import join, joined
from mossvl.device.quantized import FP8_ROWS
from mossvl.device.triton_backend import KINDS
from mossvl.kernels import blocks
from mossvl.kernels.fp8 import multiplies
from mossvl.model.layers import RMSNorm
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.nf4 import Nf4Linear

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

CLASSES = [Fp8Linear, Int4Linear, Nf4Linear]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
EIGHT_BIT_ROWS = 5e-2
"""Error of x in 8 bits: of many rows, with FP8 weights and bfloat16."""
QUERIES = [{**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()]


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def near(result, expected, tolerance):
    assert result.shape == expected.shape
    error = (result.double() - expected).norm()
    assert error <= tolerance * expected.norm(), f"{error / expected.norm():.2e}"


def normed(x, norm):
    return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight.double()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 16, 17, 32, 33, 200])
@pytest.mark.parametrize("kind", CLASSES)
def test_products(kind, rows, dtype):
    seed = rows + 1000 * len(str(dtype))
    rng = random.Random(seed)
    torch.manual_seed(seed)
    outs, inner = rng.choice([(36, 256), (516, 4096), (64, 1152), (48, 12288), (1000, 128)])
    first, second = (kind.quantize(randn(outs, inner) * inner**-0.5) for _ in range(2))
    weights = FusedWeights(KINDS)
    x, norm = randn(rows, inner + 8, dtype=dtype)[:, :inner] * 3, RMSNorm(inner, 1e-6).cuda().to(dtype)
    norm.weight.data = randn(inner, dtype=dtype)
    residual = randn(rows, outs + 8, dtype=dtype)[:, :outs]
    gate, sees = randn(1, dtype=dtype), (torch.arange(rows, device="cuda")[:, None] % 2).to(dtype)

    wide = x.double()
    dense = first.dequantized(torch.float64)
    product = wide @ dense.T
    in_8_bits = kind is Fp8Linear and rows > FP8_ROWS and multiplies(x, first.weight)
    tolerance = EIGHT_BIT_ROWS if in_8_bits else TOLERANCE[dtype]

    weight = weights.of(first)
    near(weight.project(x, None), product, tolerance)
    near(weight.project(x, norm), normed(wide, norm) @ dense.T, tolerance)
    near(weight.add(residual, x), residual.double() + product, tolerance)
    gated = residual.double() + gate.double().tanh() * sees.double() * product
    near(weight.add(residual, x, gate, sees), gated, tolerance)

    both = [first, second]
    before = [{name: one.clone() for name, one in linear.named_buffers()} for linear in both]
    join(both)
    assert joined(both) is not None
    for linear, kept in zip(both, before, strict=True):
        for name, one in linear.named_buffers():
            assert torch.equal(one.view(torch.uint8), kept[name].view(torch.uint8))
    up = normed(wide, norm) @ second.dequantized(torch.float64).T
    expected = nn.functional.silu(normed(wide, norm) @ dense.T) * up
    near(weights.of(first, second).swiglu(x, norm), expected, 2 * tolerance)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_code_is_its_number(kind, rows):
    """A row of x with a single 1 gives a column of the weight: in bfloat16, of which assembly makes the numbers."""
    inner = 256
    weight = kind.quantize(randn(48, inner) * torch.logspace(-3, 1, inner, device="cuda"))
    dense = weight.dequantized(torch.float32)
    one = torch.eye(inner, device="cuda", dtype=torch.bfloat16)
    found = torch.cat([FusedWeights(KINDS).of(weight).project(part, None) for part in one.split(rows)])
    # What is left of 8 bits: of the number, of the scale, and of their product.
    torch.testing.assert_close(found.T.float(), dense, rtol=3 * 2**-8, atol=0)


@pytest.mark.parametrize("chosen", [(2, 256, 4, 3), (4, 4096, 4, 5), (8, 2048, 8, 1), (1, 4096, 4, -1)])
@pytest.mark.parametrize("kind", CLASSES)
def test_one_row_by_programs_that_take_several_blocks(kind, chosen, monkeypatch):
    monkeypatch.setattr(blocks, "one_row", lambda *_: blocks.OneRow(*chosen))
    torch.manual_seed(0)
    first, second = (kind.quantize(randn(100, 1152)) for _ in range(2))
    join([first, second])
    x, norm, residual = randn(1, 1152, dtype=torch.bfloat16), RMSNorm(1152, 1e-6).cuda(), randn(1, 100).bfloat16()
    gate, sees = torch.full((1,), 0.5, device="cuda"), torch.ones(1, 1, device="cuda")
    weights, wide = FusedWeights(KINDS), normed(x.double(), norm)
    gated, up = (wide @ one.dequantized(torch.float64).T for one in (first, second))
    near(weights.of(first, second).swiglu(x, norm), nn.functional.silu(gated) * up, 2e-2)
    near(weights.of(first, second).project(x, norm), torch.cat([gated, up], 1), 1e-2)
    added = residual.double() + gate.double().tanh() * (x.double() @ first.dequantized(torch.float64).T)
    near(weights.of(first).add(residual, x, gate, sees), added, 1e-2)


def test_products_do_not_depend_on_other_rows():
    for kind in CLASSES:
        weight = FusedWeights(KINDS).of(kind.quantize(randn(64, 256)))
        x = randn(16, 256, dtype=torch.bfloat16)
        alone, beside = weight.project(x[:10], None), weight.project(x, None)
        assert torch.equal(alone, beside[:10])


def test_linears_apart_or_of_two_kinds_are_not_fused():
    weights = FusedWeights(KINDS)
    plain, eight, four = (kind.quantize(randn(64, 128)) for kind in CLASSES)
    assert weights.of(plain, eight) is None
    assert weights.of(Fp8Linear.quantize(randn(64, 128)), plain) is None
    assert weights.of(four) is not None


@pytest.mark.parametrize("kind", ["fp8", "int4", "nf4"])
def test_golden_prompts_are_answered_as_on_a_cpu(kind, golden):
    """By modules on a CPU, which dequantize, and by kernels on a GPU."""
    answers = []
    for device in ("cpu", "cuda"):
        llm = mossvl.MossVL(golden / "checkpoint", device=device, dtype="float32", quantization=kind, memory=1 << 28)
        with llm:
            answers.append([result.text for result in llm.generate(QUERIES, progress=False)])
    assert answers[0] == answers[1]
