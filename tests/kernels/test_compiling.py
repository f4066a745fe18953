"""Every kernel compiles for an H200, as the engine launches it; no GPU is needed."""

from functools import partial
from importlib import import_module
from itertools import product
from pkgutil import iter_modules
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

from mossvl import kernels
from mossvl.kernels import blocks, elementwise, four_bits, fp8, launch, linear, low_rank, paged, quantized, vision

FP8 = torch.float8_e4m3fn
HIDDEN, INNER, HEADS, KV_HEADS, D = 256, 512, 32, 8, 128
TARGET = SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
)
"""As much of Triton's driver as compiling needs."""


@pytest.fixture(autouse=True)
def compiled(monkeypatch, tmp_path):
    """Tensors are fake, and launches compile; the kernels that were compiled."""
    run, names = JITFunction.run, set()

    def compile_only(kernel, *args, grid, warmup, **flags):
        names.add(name_of(kernel))
        flags = {name: mocked(value) for name, value in flags.items()}
        return run(kernel, *map(mocked, args), grid=grid, warmup=True, **flags)

    def forget():
        for cached in (launch.multiprocessors, launch.early, blocks.measured, four_bits.table):
            cached.cache_clear()

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(driver, "_active", TARGET)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    with FakeTensorMode():
        yield names
    forget()


def name_of(kernel):
    return f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"


def mocked(value):
    return MockTensor(value.dtype) if isinstance(value, torch.Tensor) else value


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="cuda")


def ints(*shape):
    return empty(*shape, dtype=torch.int32)


def pages(size, dtype):
    """Pools of keys and of values; the scale of keys, and those of values."""
    scales = empty(64, KV_HEADS, size) if dtype == FP8 else None
    return *(empty(64, KV_HEADS, size, D, dtype=dtype) for _ in range(2)), 0.5, scales


def store(pools, queries, keys):
    k_pool, v_pool, *scales = pools
    q, k, v = (empty(5, heads, D) for heads in (HEADS, KV_HEADS, KV_HEADS))
    rope, slots = (empty(5, D), empty(5, D)), ints(5)
    if queries and keys:
        paged.store(q, k, v, empty(D), empty(D), 1e-6, *rope, k_pool, v_pool, slots, *scales)
    elif keys:
        paged.store_keys_values(k, v, empty(D), 1e-6, *rope, k_pool, v_pool, slots, *scales)
    else:
        paged.rotate_queries(q, empty(D), 1e-6, *rope)


def decode(pools, rows, adds):
    """Self-attention, which adds tokens; or cross-attention, which may begin at any token."""
    k_pool, v_pool, *scales = pools
    q, k, v = (empty(rows, heads, D) for heads in (HEADS, KV_HEADS, KV_HEADS))
    new, starts = (paged.NewToken(k, v, empty(D)), None) if adds else (None, ints(rows))
    paged.decode_attention(
        q, empty(D), 1e-6, empty(rows, D), empty(rows, D), k_pool, v_pool, ints(rows, 100), ints(rows), ints(rows),
        0.1, ints(rows * KV_HEADS), new, *scales, starts,
    )  # fmt: skip


def prefill(pools, splits, starts=None):
    k_pool, v_pool, _, scales = pools
    paged.prefill_attention(
        empty(64, HEADS, D), k_pool, v_pool, ints(2, 100), ints(2, 3), ints(64), 0.1, splits, scales, starts
    )


def few_rows(rows):
    x, wide, residual, norm = empty(rows, HIDDEN), empty(rows, INNER), empty(rows, HIDDEN), (empty(HIDDEN), 1e-6)
    linear.linear(x, empty(HIDDEN, HIDDEN))
    linear.norm_linear(x, *norm, empty(INNER, HIDDEN))
    linear.norm_swiglu(x, *norm, empty(2 * INNER, HIDDEN))
    linear.linear_residual(wide, empty(HIDDEN, INNER), residual)
    linear.linear_residual(wide, empty(HIDDEN, INNER), residual, empty(1), empty(rows, 1))


def quantized_weight(kind, outs, inner):
    if kind == "fp8":
        return quantized.Quantized(empty(outs, inner, dtype=FP8), empty(outs, 1, dtype=torch.float32), kind)
    return quantized.Quantized(ints(outs, inner // 8), empty(outs, inner // 64, dtype=torch.float32), kind)


def stream(kind, rows):
    x, norm = empty(rows, HIDDEN), (empty(HIDDEN), 1e-6)
    quantized.stream(x, quantized_weight(kind, INNER, HIDDEN), norm)
    quantized.stream(x, quantized_weight(kind, 2 * INNER, HIDDEN), norm, pair=True)
    down = quantized_weight(kind, HIDDEN, INNER)
    quantized.stream(empty(rows, INNER), down, residual=x, gate=empty(1), sees=empty(rows, 1))


def adapters(rows, rank, outs, dtype=torch.bfloat16):
    """Products of low rank, as of every place in a layer."""
    x, norm = empty(rows, HIDDEN, dtype=dtype), (empty(HIDDEN, dtype=dtype), 1e-6)
    down, up = empty(2, len(outs), rank, HIDDEN, dtype=dtype), empty(2, sum(outs), rank, dtype=dtype)
    stack, index = low_rank.Stack(down, up, outs), ints(rows)
    y, gate, sees = empty(rows, sum(outs), dtype=dtype), empty(1, dtype=dtype), empty(rows, 1, dtype=dtype)
    low_rank.low_rank(x, stack, index, norm)
    low_rank.add_low_rank(y, x, stack, index, norm)
    low_rank.add_low_rank(y, x, stack, index)
    low_rank.add_low_rank(y, x, stack, index, None, gate, sees)


def dequantize(kind):
    weight = quantized_weight(kind, INNER, HIDDEN)
    four_bits.dequantized(weight.data, weight.scales, kind, torch.bfloat16)


def vision_norm():
    x, norm = empty(64, 1152), torch.nn.LayerNorm(1152, device="cuda", dtype=torch.bfloat16)
    vision.layer_norm(x, norm)
    vision.layer_norm(x, norm, empty(1152, dtype=torch.float32))


KINDS = [(32, torch.bfloat16), (32, FP8), (64, FP8)]
LAUNCHES = {
    "paged_store._store_kernel": [
        lambda kind=kind, parts=parts: store(pages(*kind), *parts)
        for kind, parts in product(KINDS[:2], [(True, True), (False, True), (True, False)])
    ],
    "paged_decode._decode_kernel": [
        lambda kind=kind, rows=rows, adds=adds: decode(pages(*kind), rows, adds)
        for kind, rows, adds in product(KINDS, blocks.ROWS, [True, False])
    ],
    "paged_prefill._prefill_kernel": [
        lambda kind=kind, splits=splits: prefill(pages(*kind), splits, ints(64) if splits > 1 else None)
        for kind, splits in product(KINDS, [1, 4])
    ],
    "paged_prefill._combine_prefill_kernel": [lambda: prefill(pages(*KINDS[0]), 4)],
    "linear._one_row_kernel": [partial(few_rows, 1)],
    "linear._few_rows_kernel": [partial(few_rows, 16), partial(few_rows, 32)],
    "low_rank._down_kernel": [partial(adapters, rows, rank, (256, 64, 64)) for rows, rank in ((1, 16), (256, 256))],
    "low_rank._up_kernel": [partial(adapters, 16, 64, (512, 512)), partial(adapters, 96, 128, (256,), torch.float32)],
    "quantized._few_rows_kernel": [partial(stream, kind, 16) for kind in ("fp8", "int4", "nf4")],
    "one_row._one_row_kernel": [partial(stream, kind, 1) for kind in ("fp8", "int4", "nf4")],
    "four_bits._spread_kernel": [partial(stream, "int4", 2)],
    "four_bits._dequantize_kernel": [partial(dequantize, "int4"), partial(dequantize, "nf4")],
    "fp8._quantize_rows_kernel": [lambda: fp8.quantize_rows(empty(64, 4096), (empty(4096), 1e-6))],
    "elementwise._rms_norm_kernel": [lambda: elementwise.rms_norm(empty(64, 4096), empty(4096), 1e-6)],
    "elementwise._swiglu_kernel": [lambda: elementwise.swiglu(empty(64, 24576))],
    "elementwise._gated_residual_kernel": [
        lambda: elementwise.gated_residual(empty(64, 4096), empty(64, 4096), empty(1), empty(64, 1))
    ],
    "vision._norm_kernel": [vision_norm],
    "vision._add_entries_kernel": [lambda: vision.add_entries(empty(64, 1152), empty(16, 1152), ints(64))],
    "vision._rotate_kernel": [
        lambda: vision.rotate_in_place(empty(64, 3, 16, 72), *empty(2, 16, 72, dtype=torch.float32), ints(64))
    ],
    "vision._normalise_kernel": [
        lambda: vision.normalise_patches(
            empty(64, 768, dtype=torch.uint8), empty(6, dtype=torch.float32), torch.bfloat16
        )
    ],
}


@pytest.mark.parametrize(
    ("kernel", "number"), [(kernel, number) for kernel, cases in LAUNCHES.items() for number in range(len(cases))]
)
def test_compiles(kernel, number, compiled):
    LAUNCHES[kernel][number]()
    assert kernel in compiled


def test_every_kernel_is_compiled_here():
    modules = [import_module(f"mossvl.kernels.{found.name}") for found in iter_modules(kernels.__path__)]
    functions = {one for module in modules for one in vars(module).values() if isinstance(one, JITFunction)}
    assert {name_of(one) for one in functions if one.__name__.endswith("_kernel")} == set(LAUNCHES)
