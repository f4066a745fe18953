"""The vision tower at inference: Triton kernels for what lies between matrix products, and products that do more.

Every kernel reads its inputs once and writes its result once, in float32 inside. Widths need not be powers of two: a
row is read in two parts, the largest power of two below its width and the rest.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.activations import GELUTanh

from mossvl.kernels.launch import multiprocessors
from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.vision_ops import PLAIN, Frames, Grid, Stream, attend_by_frame, equal_runs

TABLE_BYTES = 256 * 2**20
"""How much memory positions of recent grids may take."""

NORM_ROWS, NORM_WARPS, PROGRAMS_PER_MULTIPROCESSOR = 1, 1, 32
ROTATE_WARPS = 8
"""The fastest of several on an H100, for rows of 1152: 2.65 TB/s and 2.4 TB/s where a copy has 2.9."""


@cache
def split(width: int) -> tuple[int, int]:
    """A row of 72 as 64 + 8, of 1152 as 1024 + 128: padded to one power of two, nearly half of it would be nothing."""
    head = padded(width) // 2
    return head, padded(width - head)


def padded(width: int) -> int:
    """The next power of two. (Triton's own function takes microseconds, at every launch.)"""
    return 1 << (width - 1).bit_length()


@triton.jit(do_not_specialize=["rows"])
def _norm_kernel(
    x_ptr, shift_ptr, weight_ptr, bias_ptr, out_ptr, rows, out_stride, eps,
    HAS_SHIFT: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A program takes many blocks of ROWS rows, so that it reads the vectors, several times a row's bytes, once."""
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
def _turn(place, cos_ptr, sin_ptr, inside, HALF: tl.constexpr):
    """Turn the pairs at `place` and HALF beyond it."""
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
    """A row's q and k lie side by side: 2 · HEADS heads of 2 · HALF."""
    row = tl.program_id(0).to(tl.int64)
    table = tl.load(entry_ptr + row) * (2 * HALF)
    head = tl.arange(0, HEADS_PADDED)[:, None]
    a, b = tl.arange(0, HEAD)[None, :], HEAD + tl.arange(0, TAIL)[None, :]
    place = qkv_ptr + row * (6 * HEADS * HALF) + head * (2 * HALF)
    real = head < 2 * HEADS
    _turn(place + a, cos_ptr + table + a, sin_ptr + table + a, real & (a < HALF), HALF)
    _turn(place + b, cos_ptr + table + b, sin_ptr + table + b, real & (b < HALF), HALF)


@triton.jit
def _normalise_kernel(
    pixels_ptr, values_ptr, out_ptr, pixels, SIZE: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """`values` holds the channels' factors, then what is added; SIZE is a channel's pixels in one patch."""
    channel = tl.program_id(1)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = (pixel // SIZE * CHANNELS + channel) * SIZE + pixel % SIZE
    value = tl.load(pixels_ptr + place, pixel < pixels, 0).to(tl.float32)
    value = value * tl.load(values_ptr + channel) + tl.load(values_ptr + CHANNELS + channel)
    tl.store(out_ptr + place, value.to(out_ptr.dtype.element_ty), pixel < pixels)


def layer_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """LayerNorm of x + shift: x (rows, width) contiguous, shift (width,) float32; `out` may be some columns of a
    wider tensor."""
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
    """x[row] += entries[entry[row]], in place: x (rows, width) and entries (any, width) contiguous, entry int32."""
    assert entry is not None and x.is_contiguous()
    width = x.shape[1]
    _add_entries_kernel[len(x),](x, entries, entry, WIDTH=width, PADDED=padded(width), num_warps=4)


def rotate_in_place(qkv: Tensor, frames: Frames) -> None:
    """Rotates q and k of qkv, (rows, 3, heads, head_dim) contiguous, by the angles of each row's entry."""
    assert frames.entry is not None and qkv.is_contiguous()
    rows, _, heads, width = qkv.shape
    head, tail = split(width // 2)
    _rotate_kernel[rows,](
        *(qkv, *frames.rope, frames.entry),
        HEADS=heads,
        HALF=width // 2,
        HEADS_PADDED=padded(2 * heads),
        HEAD=head,
        TAIL=tail,
        num_warps=ROTATE_WARPS,
    )


def normalise_patches(patches: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 (patches, channels · size) → (x / 255 − mean) / std by channel, in `dtype`; see `processing.pixels`.

    Args:
        values: from `channel_values`.
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
    """(x / 255 − mean) / std as one product and one sum: the factors, then what is added, float32."""
    added = [-centre / scale for centre, scale in zip(mean, std, strict=True)]
    return torch.tensor([*(1 / 255 / scale for scale in std), *added], device=device)


MANY_PATCHES = 8_192
"""From so many patches on, it pays to set an attention up; and launching its kernels takes less time than they do."""


def set_up_attention(heads: int, width: int, like: Tensor) -> None:
    """Load what the first attention on a device loads, a second's work, with one that computes nothing of use."""
    q = like.new_zeros((1, heads, 64, width))
    F.scaled_dot_product_attention(q, q, q)


def binary_runs(runs: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(frames, patches) cut into powers of two of frames, the largest first, so that few numbers of frames occur."""
    cut = []
    for frames, patches in runs:
        cut += [(1 << bit, patches) for bit in reversed(range(frames.bit_length())) if frames >> bit & 1]
    return tuple(cut)


@dataclass
class Shift:
    """A vector to be added to every row of a stream: the biases of all linears that were added to it so far."""

    value: Tensor | None = None
    following: "dict[nn.Module, Shift]" = field(default_factory=dict)

    def plus(self, linear: nn.Linear) -> "Shift":
        """Computed once for each linear that ever follows, since a tower adds its linears in one order."""
        if linear not in self.following:
            bias = linear.bias.float()
            self.following[linear] = Shift(bias if self.value is None else self.value + bias)
        return self.following[linear]


class TritonOps:
    """`VisionOps` for inference with one tower whose weights change no more.

    The residual stream is a tensor without the biases of the linears that were added to it, and the sum of those
    biases. So a linear is added by the matrix product itself, in place, and the next norm adds the biases as it reads.

    Args:
        mean, std: of uint8 pixels over 255, by channel.
        often: the same grids will come many times, however small they are.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        often: bool = False,
    ) -> None:
        self.mean, self.std, self.often = tuple(mean), tuple(std), often
        self._channel_values: Tensor | None = None
        self._recent: OrderedDict[tuple[Grid, ...], Frames] = OrderedDict()
        self._no_shift = Shift()

    def pixels(self, patches: Tensor, weight: Tensor) -> Tensor:
        if patches.dtype == torch.uint8:
            if self._channel_values is None:
                self._channel_values = channel_values(self.mean, self.std, weight.device)
            return normalise_patches(patches.to(weight.device), self._channel_values, weight.dtype)
        return patches.to(weight)

    def frames(self, table: Tensor, grids: Sequence[Grid], config: MossVLVisionConfig) -> Frames:
        """One entry for each patch of each distinct frame; those of recent calls are kept."""
        if torch.is_grad_enabled():
            raise RuntimeError("TritonOps computes no gradients; call it under torch.no_grad()")
        key = tuple(grids)
        if key not in self._recent:
            sizes = list(dict.fromkeys((1, rows, columns) for _, rows, columns in grids))
            ends = torch.tensor([rows * columns for _, rows, columns in sizes]).cumsum(0).tolist()
            starts = {size: end - size[1] * size[2] for size, end in zip(sizes, ends, strict=True)}
            entry = [
                torch.arange(start, start + rows * columns, dtype=torch.int32, device=table.device).repeat(count)
                for count, rows, columns in grids
                for start in [starts[1, rows, columns]]
            ]
            plain = PLAIN.frames(table, sizes, config)
            self._recent[key] = Frames(binary_runs(equal_runs(grids)), plain.positions, plain.rope, torch.cat(entry))
            while len(self._recent) > 1 and sum(map(_bytes, self._recent.values())) > TABLE_BYTES:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def start(self, x: Tensor, frames: Frames) -> Stream:
        add_entries(x, frames.positions, frames.entry)
        return x, self._no_shift

    def norm(self, x: Stream, norm: nn.LayerNorm) -> tuple[Stream, Tensor]:
        value, shift = x
        return x, layer_norm(value, norm, shift.value)

    def add(self, x: Stream, linear: nn.Linear, h: Tensor) -> Stream:
        if type(linear) is not nn.Linear:  # an adapter's
            return self.value(x) + linear(h), self._no_shift
        value, shift = x
        return value.addmm_(h, linear.weight.t()), shift.plus(linear)

    def value(self, x: Stream) -> Tensor:
        value, shift = x
        return value.clone() if shift.value is None else value + shift.value.to(value)

    def attention(self, qkv: Tensor, frames: Frames) -> Tensor:
        rotate_in_place(qkv, frames)
        q, k, v = qkv.unbind(1)
        return attend_by_frame(q, k, v, frames.runs, self._attend)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """PyTorch's choice, cuDNN, takes about two thirds of flash attention's time, but 35 ms to set up for every new
        (frames, patches): too much for images of ever new sizes."""
        if q.dtype == torch.float32 or self.often or q.shape[0] * q.shape[2] >= MANY_PATCHES:
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v)

    def activated(self, linear: nn.Linear, act: nn.Module, x: Tensor) -> Tensor:
        """GELU in the product's epilogue, before rounding. cuBLASLt does so in half precision; elsewhere it would be an
        operation of its own, or less precise than float32 asks for."""
        fits = type(linear) is nn.Linear and isinstance(act, GELUTanh)
        if fits and x.is_cuda and x.dtype in (torch.bfloat16, torch.float16):
            return torch._addmm_activation(linear.bias, x, linear.weight.t(), use_gelu=True)
        return act(linear(x))

    def norms(self, levels: Sequence[Tensor], norms: nn.ModuleList) -> Tensor:
        rows, width = levels[0].shape
        out = levels[0].new_empty(rows, len(levels), width)
        for index, (level, norm) in enumerate(zip(levels, norms, strict=True)):
            assert isinstance(norm, nn.LayerNorm)
            layer_norm(level, norm, out=out[:, index])
        return out.flatten(1)


def _bytes(frames: Frames) -> int:
    tensors = (frames.positions, *frames.rope, frames.entry)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
