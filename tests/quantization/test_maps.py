"""Linear maps with quantized weights: the bytes of other packages, and modules like any other."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mossvl.errors import CheckpointError
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.int8 import Int8Linear
from mossvl.quantization.linear import QuantizedLinear, Rows
from mossvl.quantization.nf4 import Nf4Linear

FOREIGN = load_file(Path(__file__).parent / "foreign" / "maps.safetensors")
WEIGHT = FOREIGN["weight"]
KINDS = {"fp8": Fp8Linear, "int8": Int8Linear, "int4": Int4Linear, "nf4": Nf4Linear}
ERRORS = {"fp8": 0.03, "int8": 0.01, "int4": 0.11, "nf4": 0.1}
"""Bounds of the root of the mean squared error over that of normal weights."""


def of(kind: str) -> dict[str, torch.Tensor]:
    """The tensors that another package made of WEIGHT."""
    return {name.partition(".")[2]: one for name, one in FOREIGN.items() if name.startswith(f"{kind}.")}


def normal(out_features: int, in_features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def linear(kind) -> QuantizedLinear:
    return KINDS[kind].quantize(normal(24, 256))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether dtypes and bytes are the same."""
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_fp8_bytes_are_those_of_compressed_tensors():
    linear, theirs = Fp8Linear.quantize(WEIGHT), of("fp8")
    assert same(linear.weight, theirs["weight"])
    assert same(linear.weight_scale, theirs["weight_scale"])
    assert same(linear.dequantized(torch.bfloat16), theirs["dequantized"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_fp8_of_other_dtypes_is_computed_in_bfloat16(dtype):
    weight = normal(5, 64).to(dtype)
    one, other = Fp8Linear.quantize(weight), Fp8Linear.quantize(weight.bfloat16())
    assert same(one.weight, other.weight) and same(one.weight_scale, other.weight_scale)


@pytest.mark.parametrize("group", [32, 64])
def test_int4_words_are_read_as_compressed_tensors_reads_them(group):
    theirs = of(f"int4-{group}")
    linear = Int4Linear(192, 9, group)
    linear.load_state_dict({name: theirs[name] for name in ("weight_packed", "weight_scale")})
    assert same(linear.dequantized(torch.bfloat16), theirs["dequantized"])


@pytest.mark.parametrize("group", [32, 64])
def test_int4_errs_less_than_with_scales_of_the_largest_weights(group):
    theirs = of(f"int4-{group}")["dequantized"].double()
    linear = Int4Linear(192, 9, group)
    linear.put(0, WEIGHT)
    ours = linear.dequantized(torch.float64)
    errors = [(one - WEIGHT.double()).square().sum(1) for one in (ours, theirs)]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all() and errors[0].sum() < errors[1].sum()


def test_an_int4_word_holds_its_first_value_in_its_lowest_bits():
    values = torch.tensor([-8.0, -7, -3, -1, 0, 1, 5, 7]).repeat(4)[None]
    linear = Int4Linear(32, 1, 32)
    linear.weight_scale.fill_(0.5)
    word = sum((int(value) + 8) << 4 * place for place, value in enumerate(values[0, :8].tolist()))
    linear.weight_packed.fill_(word - (word >> 31 << 32))
    assert torch.equal(linear.dequantized(torch.float32), values / 2)


def test_nf4_bytes_are_those_of_bitsandbytes():
    linear, theirs = Nf4Linear.quantize(WEIGHT), of("nf4-plain")
    assert same(linear.weight, theirs["weight"].view(9, 96))
    assert same(linear.absmax, theirs["weight.absmax"])
    assert same(linear.dequantized(torch.bfloat16), theirs["dequantized"])


def test_nf4_blocks_may_cross_rows():
    weight = normal(4, 160)
    flat = Nf4Linear.quantize(weight.view(1, 640))
    crossing = Nf4Linear.quantize(weight)
    assert torch.equal(crossing.dequantized(torch.float32), flat.dequantized(torch.float32).view(4, 160))
    with pytest.raises(CheckpointError, match=r"160 in features cannot be NF4 in rows.* multiple of 64"):
        crossing.put(1, weight[1:2])


def test_weights_keep_about_their_values(kind, linear):
    weight = normal(24, 256)
    error = (linear.dequantized(torch.float32) - weight).square().mean().sqrt()
    assert 0.5 * ERRORS[kind] < error < ERRORS[kind]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_no_number_is_not_lost(kind, value):
    weight = normal(4, 128)
    weight[2, 3] = value
    quantized = KINDS[kind].quantize(weight).dequantized(torch.float32)
    assert not quantized[2].isfinite().all()
    assert quantized[[0, 1, 3]].isfinite().all()


def test_rows_quantized_apart_are_those_quantized_at_once(kind, monkeypatch):
    weight = normal(24, 256)
    whole, apart = KINDS[kind].quantize(weight), KINDS[kind](256, 24)
    for start, stop in ((9, 24), (0, 1), (1, 9)):
        apart.put(start, weight[start:stop])
    monkeypatch.setattr("mossvl.quantization.linear.CHUNK", 1000)
    chunked = KINDS[kind].quantize(weight)
    for other in (apart, chunked):
        for name, one in whole.state_dict().items():
            assert same(one, other.state_dict()[name])


def test_quantizing_what_was_quantized_changes_little(kind, linear):
    once = linear.dequantized(torch.float32)
    twice = KINDS[kind].quantize(once).dequantized(torch.float32)
    assert (once - twice).square().mean().sqrt() < 0.3 * ERRORS[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"int8"}))  # See test_int8: there, integers are multiplied.
def test_a_product_is_that_with_the_dequantized_weight(linear, dtype):
    x = normal(3, 256, seed=1).to(dtype)
    assert torch.equal(linear(x), nn.functional.linear(x, linear.dequantized(dtype)))
    assert linear(x).dtype == dtype
    assert linear(x[None]).shape == (1, 3, 24)


def test_gradients_pass_to_inputs_as_through_the_dequantized_weight(linear):
    x, again = (normal(3, 256, seed=1).requires_grad_() for _ in range(2))
    linear(x).square().sum().backward()
    nn.functional.linear(again, linear.dequantized(torch.float32)).square().sum().backward()
    assert torch.equal(x.grad, again.grad)
    assert not list(linear.parameters())


def test_a_backward_pass_keeps_no_dequantized_weight(linear):
    x = normal(3, 256).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.shape) or one, lambda one: one):
        linear(x)
    assert (24, 256) not in kept and (256, 24) not in kept


@pytest.mark.parametrize("cast", ["to", "half", "double", "bfloat16", "parent"])
def test_casts_leave_quantized_weights_as_they_are(kind, linear, cast):
    before = {name: one.clone() for name, one in linear.state_dict().items()}
    parent = nn.Sequential(linear, nn.Linear(24, 2))
    casts = {
        "to": lambda: linear.to(torch.float16),
        "half": linear.half,
        "double": linear.double,
        "bfloat16": linear.bfloat16,
        "parent": lambda: parent.to("cpu", torch.bfloat16),
    }
    casts[cast]()
    for name, one in linear.state_dict().items():
        assert same(one, before[name])
    assert parent[1].weight.dtype == (torch.bfloat16 if cast == "parent" else torch.float32)


def test_quantized_weights_survive_a_state_dict(kind, linear):
    with torch.device("meta"):
        empty = KINDS[kind](256, 24)
    other = empty.to_empty(device="cpu")
    other.load_state_dict(linear.state_dict())
    assert torch.equal(other.dequantized(torch.float32), linear.dequantized(torch.float32))
    assert linear.to("meta").dequantized(torch.float32).is_meta


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(CheckpointError, match=r"192 in features cannot be INT4 in groups of 128.* multiple of 128"):
        Int4Linear(192, 8)
    with pytest.raises(CheckpointError, match=r"33 in features cannot be packed in bytes of two.* multiple of 2"):
        Nf4Linear(33, 64)
    with pytest.raises(CheckpointError, match=r"34 in features cannot be NF4 in blocks of 64.* multiple of 64"):
        Nf4Linear(34, 1)


def test_rows_of_rows_are_counted_from_the_first(kind, linear):
    weight, filled = normal(24, 256), KINDS[kind](256, 24)
    rows = Rows.of(filled)
    assert rows.shape == (24, 256) and len(rows[5:20][3:]) == 12
    for part in (slice(0, 8), slice(8, 24)):
        rows[part][:3].copy_(weight[part][:3])
        rows[part][3:].copy_(weight[part][3:])
    for name, one in linear.state_dict().items():
        assert same(one, filled.state_dict()[name])
