"""Products of low rank by adapter against float64, on a GPU or in Triton's interpreter (TRITON_INTERPRET=1)."""

import copy
import os

import pytest
import torch
from torch import nn

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is neither a GPU nor Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)

from mossvl.adapters.files import LowRank
from mossvl.adapters.loaded import Adapters
from mossvl.adapters.rows import AdaptedRows
from mossvl.device.fused_products import FusedProducts, FusedWeights
from mossvl.device.fusing import fuse, groups
from mossvl.device.low_rank import StackedRows, Stacks
from mossvl.device.triton_backend import KINDS
from mossvl.kernels import elementwise, linear, low_rank
from mossvl.model.layers import CrossAttentionLayer, PlainProducts, RMSNorm, SelfAttentionLayer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [
    (1, (48,), 64, 16, 1),
    (5, (40, 16, 16), 600, 16, 3),
    (20, (130, 130), 96, 32, 4),
    (70, (33,), 160, 16, 2),
    (3, (24, 24), 64, 512, 2),
]


def randn(*shape):
    return torch.randn(*shape, device=DEVICE)


def expected(x, stack, index, norm):
    x = x.double()
    if norm is not None:
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + norm[1]) * norm[0].double()
    out = x.new_zeros(len(x), sum(stack.outs))
    for row, adapter in enumerate(index.tolist()):
        if adapter >= 0:
            ups = stack.up[adapter].double().split(stack.outs)
            out[row] = torch.cat(
                [up @ (down.double() @ x[row]) for down, up in zip(stack.down[adapter], ups, strict=True)]
            )
    return out


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize(("rows", "outs", "inner", "rank", "adapters"), SHAPES)
def test_each_row_has_the_product_of_its_adapter(rows, outs, inner, rank, adapters, norm):
    torch.manual_seed(0)
    stack = low_rank.Stack(randn(adapters, len(outs), rank, inner), randn(adapters, sum(outs), rank), outs)
    x, index = randn(rows, 2 * inner)[:, :inner], torch.randint(-1, adapters, (rows,), device=DEVICE).int()
    apart = (randn(inner), 1e-6) if norm else None
    exact = expected(x, stack, index, apart)
    tolerance = {"rtol": 1e-4, "atol": 1e-4 * float(exact.abs().max())}
    alone = low_rank.low_rank(x, stack, index, apart)
    torch.testing.assert_close(alone.double(), exact, **tolerance)
    assert not alone[index < 0].any()
    before, gate, sees = randn(rows, sum(outs)), randn(1), torch.randint(0, 2, (rows, 1), device=DEVICE).float()
    for given, factor in (((), 1), ((gate, sees), gate.tanh() * sees)):
        wide = randn(rows, sum(outs) + 7)
        wide[:, : sum(outs)] = before
        untouched = wide[:, sum(outs) :].clone()
        low_rank.add_low_rank(wide[:, : sum(outs)], x, stack, index, apart, *given)
        torch.testing.assert_close(wide[:, : sum(outs)].double(), before + factor * exact, **tolerance)
        assert torch.equal(wide[index < 0, : sum(outs)], before[index < 0]) and torch.equal(
            wide[:, sum(outs) :], untouched
        )


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_what_is_added_before_swiglu_changes_no_row_of_zeros(rows):
    torch.manual_seed(1)
    x, weight, norm, added = randn(rows, 64), randn(2 * 96, 64), randn(64), randn(rows, 2 * 96)
    added[0] = 0
    gate, up = (elementwise.rms_norm(x, norm, 1e-6) @ weight.T + added).chunk(2, -1)
    y = linear.norm_swiglu(x, norm, 1e-6, weight, added)
    torch.testing.assert_close(y, nn.functional.silu(gate) * up, rtol=1e-4, atol=1e-4)
    assert torch.equal(y[0], linear.norm_swiglu(x, norm, 1e-6, weight)[0])


@pytest.mark.parametrize("kind", [SelfAttentionLayer, CrossAttentionLayer])
def test_fused_products_of_a_layer_are_those_of_plain_ones(kind, model):
    torch.manual_seed(2)
    layer = copy.deepcopy(next(one for one in model.modules() if isinstance(one, kind))).to(DEVICE)
    attn = layer.self_attn if kind is SelfAttentionLayer else layer.cross_attn
    adapters, adapters_too = Adapters(["one", "two"]), Adapters(["one", "two"])
    for one in (attn.q_proj, attn.v_proj, attn.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj):
        lows = [LowRank(randn(r, one.in_features) / 8, randn(one.out_features, r) / 8) for r in (3, 20)]
        adapters.of[one] = adapters_too.of[one] = [lows[0], None] if one is attn.v_proj else lows
    index = torch.tensor([0, -1, 1, 1, -1, 0], device=DEVICE).int()
    weights = FusedWeights(KINDS)
    fuse(layer)
    joined = [group for group in groups(layer) if weights.of(*group) is not None]
    assert joined
    fused = FusedProducts(weights, StackedRows(Stacks(adapters_too, joined), index))
    base = FusedProducts(weights)

    class Plain(PlainProducts):
        def linears(self, x, linears):
            results = super().linears(x, linears)
            for y, one in zip(results, linears, strict=True):
                AdaptedRows(adapters, index).add(y, x, one)
            return results

    norm, gate, sees = RMSNorm(attn.q_proj.in_features, 1e-6).to(DEVICE), randn(1), index[:, None].clamp(0, 1).float()
    x, wide, heads = (randn(6, one.in_features) for one in (attn.q_proj, layer.mlp.down_proj, attn.o_proj))
    maps = next(group for group in joined if layer.mlp.gate_proj not in group)
    for work in (
        lambda products: torch.cat(products.project(x, maps, norm), -1),
        lambda products: products.swiglu(x, norm, layer.mlp),
        lambda products: products.add(x, heads, attn.o_proj),
        lambda products: products.add_gated(x, wide, layer.mlp.down_proj, gate, sees),
    ):
        with torch.inference_mode():
            result, plain, without = work(fused), work(Plain()), work(base)
        torch.testing.assert_close(result, plain, rtol=1e-4, atol=1e-4)
        assert torch.equal(result[index < 0], without[index < 0])
        assert not torch.allclose(result[index >= 0], without[index >= 0])
