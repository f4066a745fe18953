"""Keys and values in FP8 pages: what is stored is near what was given, and attention reads just what is stored."""

import pytest
import torch

pytest.importorskip("triton")
from mossvl.kernels import paged
from mossvl.model.xrope import rotate

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

PAGE, D = 32, 128


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def error(result, expected):
    return ((result.double() - expected.double()).norm() / expected.double().norm()).item()


def normed(x, weight):
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("length", [1, 33, 700])
@pytest.mark.parametrize(("kv_heads", "group"), [(2, 4), (8, 4), (1, 1)])
def test_store_and_attend(kv_heads, group, length, dtype):
    torch.manual_seed(length)
    heads, pages = kv_heads * group, -(-length // PAGE)
    k, v = randn(length, kv_heads, D, dtype=dtype), randn(length, kv_heads, D, dtype=dtype) * 7
    v[0, 0] = 0 if length > 1 else 1
    weight = randn(D, dtype=dtype)
    angles = torch.rand(length, D // 2, device="cuda").repeat(1, 2) * 6
    cos, sin = angles.cos(), angles.sin()
    key_scale = weight.abs().max().item() * D**0.5 / 448
    order = torch.randperm(pages + 2, device="cuda")[:pages]
    token = torch.arange(length, device="cuda")
    slots = order[token // PAGE] * PAGE + token % PAGE
    pools = torch.full((2, pages + 2, kv_heads, PAGE, D), float("nan"), device="cuda").to(torch.float8_e4m3fn)
    v_scales = torch.full((pages + 2, kv_heads, PAGE), float("nan"), dtype=torch.bfloat16, device="cuda")
    last = slice(length - 1, None)
    if length > 1:
        rest = slice(length - 1)
        paged.store_keys_values(
            k[rest], v[rest], weight, 1e-6, cos[rest], sin[rest], *pools, slots[rest], key_scale, v_scales
        )
    q, q_weight, scale = randn(1, heads, D, dtype=dtype), randn(D, dtype=dtype), D**-0.5
    tables = torch.full((1, pages + 2), 2**30, dtype=torch.int32, device="cuda")
    tables[0, :pages] = order
    seen = torch.arange(1, length + 1, dtype=torch.int32, device="cuda")
    arrivals, rows = (torch.zeros(count, dtype=torch.int32, device="cuda") for count in (kv_heads, 1))
    new = paged.NewToken(k[last], v[last], weight)
    decoded = paged.decode_attention(
        q,
        q_weight,
        1e-6,
        cos[last],
        sin[last],
        *pools,
        tables,
        rows,
        seen[last],
        scale,
        arrivals,
        new,
        key_scale,
        v_scales,
    )

    at = slots // PAGE, slice(None), slots % PAGE
    keys = pools[0][at].double() * key_scale
    values = pools[1][at].double() * v_scales[at].double()[..., None]
    assert error(keys, rotate(normed(k, weight), (cos.double(), sin.double()))) < 4e-2
    assert error(values, v) < 4e-2 and values[0, 0].any() == v[0, 0].any()

    queries = rotate(normed(q, q_weight), (cos[last].double(), sin[last].double()))
    wide_k, wide_v = (x.repeat_interleave(group, 1) for x in (keys, values))
    scores = torch.einsum("rhd,thd->hrt", queries, wide_k) * scale
    expected = torch.einsum("hrt,thd->rhd", scores.softmax(-1), wide_v)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert error(decoded, expected) < tolerance and not arrivals.any()

    starts = range(0, length, paged.TILE_ROWS)
    tiles = torch.tensor([[0, start, min(paged.TILE_ROWS, length - start)] for start in starts], device="cuda").int()
    prompt = queries.to(dtype).expand(length, -1, -1).contiguous()
    for splits in (1, 4):
        result = paged.prefill_attention(prompt, *pools, tables, tiles, seen, scale * key_scale, splits, v_scales)
        assert error(result[last], expected) < tolerance


@pytest.mark.parametrize("prompt", [False, True], ids=["decode", "prompt"])
def test_values_of_every_size(prompt):
    """Products are in float16, whose range is far smaller than that of bfloat16 values and their scales."""
    torch.manual_seed(0)
    dtype = torch.bfloat16
    length, pages = 200, 7
    k = randn(length, 1, D)
    v = randn(length, 1, D) * 10.0 ** torch.randint(-6, 7, (length, 1, 1), device="cuda")
    v[:150] *= 1e-12  # Where they are all small, and where large ones follow.
    weight, rope = randn(D), (torch.ones(length, D, device="cuda"), torch.zeros(length, D, device="cuda"))
    key_scale = weight.abs().max().item() * D**0.5 / 448
    slots = torch.arange(length, device="cuda")
    pools = torch.zeros((2, pages, 1, PAGE, D), device="cuda").to(torch.float8_e4m3fn)
    scales = torch.zeros((pages, 1, PAGE), dtype=torch.bfloat16, device="cuda")
    paged.store_keys_values(k, v, weight, 1e-6, *rope, *pools, slots, key_scale, scales)
    tables, zero = torch.arange(pages, device="cuda")[None].int(), torch.zeros(1, dtype=torch.int32, device="cuda")
    q, q_weight = randn(1, 4, D, dtype=dtype), torch.ones(D, dtype=dtype, device="cuda")
    queries = normed(q, q_weight)
    for seen in (150, length):
        visible = torch.tensor([seen], dtype=torch.int32, device="cuda")
        if prompt:
            tiles = torch.tensor([[0, 0, 1]], dtype=torch.int32, device="cuda")
            q_rows, scale = queries.to(dtype), key_scale / D**0.5
            result = paged.prefill_attention(q_rows, *pools, tables, tiles, visible, scale, 1, scales)
        else:
            ropes = rope[0][:1], rope[1][:1]
            result = paged.decode_attention(
                q, q_weight, 1e-6, *ropes, *pools, tables, zero, visible, D**-0.5, zero.clone(), None, key_scale, scales
            )
        at = slots[:seen] // PAGE, 0, slots[:seen] % PAGE
        weights = (queries[0] @ (pools[0][at].double() * key_scale).T / D**0.5).softmax(-1)
        expected = weights @ (pools[1][at].double() * scales[at].double()[:, None])
        assert error(result[0], expected) < 2e-2
