"""Kernels of the vision tower between matrix products.

Every kernel reads its inputs once and writes its output once; arithmetic is in float32. Widths need not be powers of
two: a row is read in two parts, the largest power of two below its width (the head) and the rest (the tail).
"""

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from mossvl.kernels.launch import multiprocessors

NORM_ROWS, NORM_WARPS, PROGRAMS_PER_MULTIPROCESSOR = 1, 1, 32
ROTATE_WARPS = 8
"""The fastest settings on an H100, for rows of 1152: 2.65 TB/s and 2.4 TB/s, where a copy reaches 2.9 TB/s."""


@cache
def split(width: int) -> tuple[int, int]:
    """Split a width into powers of two: 72 = 64 + 8, 1152 = 1024 + 128. One power would be nearly half padding."""
    head = padded(width) // 2
    return head, padded(width - head)


def padded(width: int) -> int:
    """Return the next power of two. (Triton's own function takes microseconds at every launch.)"""
    return 1 << (width - 1).bit_length()


@triton.jit(do_not_specialize=["rows"])
def _norm_kernel(
    x_ptr, shift_ptr, weight_ptr, bias_ptr, out_ptr, rows, out_stride, eps,
    HAS_SHIFT: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Many blocks of ROWS rows a program, which so reads weight, bias and shift (more bytes than a row) only once."""
    a, b = tl.arange(0, HEAD)[None, :], HEAD + tl.arange(0, TAIL)[None, :]
    inside = b < WIDTH
    weight, weight_tail = tl.load(weight_ptr + a), tl.load(weight_ptr + b, inside, 0)
    bias, bias_tail = tl.load(bias_ptr + a), tl.load(bias_ptr + b, inside, 0)
    if HAS_SHIFT:
        shift, shift_tail = tl.load(shift_ptr + a), tl.load(shift_ptr + b, inside, 0)
    for block in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        real = row < rows
        x = tl.load(x_ptr + row * WIDTH + a, real, 0).to(tl.float32)
        tail = tl.load(x_ptr + row * WIDTH + b, real & inside, 0).to(tl.float32)
        if HAS_SHIFT:
            x += shift
            tail += shift_tail
        mean = ((tl.sum(x, 1) + tl.sum(tail, 1)) / WIDTH)[:, None]
        x -= mean
        tail = tl.where(inside, tail - mean, 0)
        variance = (tl.sum(x * x, 1) + tl.sum(tail * tail, 1)) / WIDTH
        scale = 1 / tl.sqrt(variance + eps)[:, None]
        x = x * scale * weight.to(tl.float32) + bias.to(tl.float32)
        tail = tail * scale * weight_tail.to(tl.float32) + bias_tail.to(tl.float32)
        tl.store(out_ptr + row * out_stride + a, x.to(out_ptr.dtype.element_ty), real)
        tl.store(out_ptr + row * out_stride + b, tail.to(out_ptr.dtype.element_ty), real & inside)


@triton.jit
def _add_entries_kernel(x_ptr, entries_ptr, entry_ptr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    value = tl.load(entries_ptr + tl.load(entry_ptr + row) * WIDTH + at, at < WIDTH, 0).to(tl.float32)
    value += tl.load(x_ptr + row * WIDTH + at, at < WIDTH, 0).to(tl.float32)
    tl.store(x_ptr + row * WIDTH + at, value.to(x_ptr.dtype.element_ty), at < WIDTH)


@triton.jit
def _rotate(place, cos_ptr, sin_ptr, inside, HALF: tl.constexpr):
    """Rotate the pairs at `place` and `place` + HALF."""
    cos, sin = tl.load(cos_ptr, inside, 0), tl.load(sin_ptr, inside, 0)
    first = tl.load(place, inside, 0).to(tl.float32)
    second = tl.load(place + HALF, inside, 0).to(tl.float32)
    tl.store(place, (first * cos - second * sin).to(place.dtype.element_ty), inside)
    tl.store(place + HALF, (second * cos + first * sin).to(place.dtype.element_ty), inside)


@triton.jit
def _rotate_kernel(
    qkv_ptr, cos_ptr, sin_ptr, entry_ptr,
    HEADS: tl.constexpr, HALF: tl.constexpr, HEADS_PADDED: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Rotate q and k of one row, which are adjacent: 2 · HEADS heads of width 2 · HALF."""
    row = tl.program_id(0).to(tl.int64)
    table = tl.load(entry_ptr + row) * (2 * HALF)
    head = tl.arange(0, HEADS_PADDED)[:, None]
    a, b = tl.arange(0, HEAD)[None, :], HEAD + tl.arange(0, TAIL)[None, :]
    place = qkv_ptr + row * (6 * HEADS * HALF) + head * (2 * HALF)
    real = head < 2 * HEADS
    _rotate(place + a, cos_ptr + table + a, sin_ptr + table + a, real & (a < HALF), HALF)
    _rotate(place + b, cos_ptr + table + b, sin_ptr + table + b, real & (b < HALF), HALF)


@triton.jit
def _normalise_kernel(
    pixels_ptr, values_ptr, out_ptr, pixels, SIZE: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """`values` holds the factors, then the offsets, of the channels; SIZE is the pixels of a channel in one patch."""
    channel = tl.program_id(1)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = (pixel // SIZE * CHANNELS + channel) * SIZE + pixel % SIZE
    value = tl.load(pixels_ptr + place, pixel < pixels, 0).to(tl.float32)
    value = value * tl.load(values_ptr + channel) + tl.load(values_ptr + CHANNELS + channel)
    tl.store(out_ptr + place, value.to(out_ptr.dtype.element_ty), pixel < pixels)


def layer_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """LayerNorm of x + shift: x (rows, width) contiguous, shift (width,) float32.

    Args:
        out: output (rows, width); may be columns of a wider tensor.
    """
    rows, width = x.shape
    out = torch.empty_like(x) if out is None else out
    head, tail = split(width)
    programs = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(x.device)
    _norm_kernel[min(-(-rows // NORM_ROWS), programs),](
        *(x, x if shift is None else shift, norm.weight, norm.bias, out, rows, out.stride(0), norm.eps),
        HAS_SHIFT=shift is not None,
        WIDTH=width,
        HEAD=head,
        TAIL=tail,
        ROWS=NORM_ROWS,
        num_warps=NORM_WARPS,
    )
    return out


def add_entries(x: Tensor, entries: Tensor, entry: Tensor | None) -> None:
    """Add entries[entry[row]] to x[row] in place: x (rows, width), entries (n, width), both contiguous; entry int32."""
    assert entry is not None and x.is_contiguous()
    width = x.shape[1]
    _add_entries_kernel[len(x),](x, entries, entry, WIDTH=width, PADDED=padded(width), num_warps=4)


def rotate_in_place(qkv: Tensor, cos: Tensor, sin: Tensor, entry: Tensor) -> None:
    """Rotate q and k of qkv, (rows, 3, heads, head_dim) contiguous, by the angles of each row's entry, in place.

    Args:
        cos, sin: float32 (entries, head_dim).
        entry: int32 (rows,).
    """
    assert qkv.is_contiguous()
    rows, _, heads, width = qkv.shape
    head, tail = split(width // 2)
    _rotate_kernel[rows,](
        *(qkv, cos, sin, entry),
        HEADS=heads,
        HALF=width // 2,
        HEADS_PADDED=padded(2 * heads),
        HEAD=head,
        TAIL=tail,
        num_warps=ROTATE_WARPS,
    )


def normalise_patches(patches: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalise uint8 (patches, channels · size) to (x / 255 − mean) / std by channel, in `dtype`.

    Args:
        values: of `channel_values`.
    """
    patches = patches.contiguous()
    out = torch.empty_like(patches, dtype=dtype)
    channels, block = len(values) // 2, 2048
    _normalise_kernel[triton.cdiv(patches.numel() // channels, block), channels](
        *(patches, values, out, patches.numel() // channels),
        SIZE=patches.shape[1] // channels,
        CHANNELS=channels,
        BLOCK=block,
    )
    return out


def channel_values(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """Return (2 · channels,) float32: factors, then offsets, of (x / 255 − mean) / std = factor · x + offset."""
    offsets = [-centre / scale for centre, scale in zip(mean, std, strict=True)]
    return torch.tensor([*(1 / 255 / scale for scale in std), *offsets], device=device)
