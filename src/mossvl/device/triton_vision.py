"""`VisionOps` for inference on a GPU: the kernels of `mossvl.kernels.vision`, and fused matrix products."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.activations import GELUTanh

from mossvl.device.set_ups import MANY_PATCHES, SET_UP_SECONDS, SetUps
from mossvl.kernels.vision import add_entries, channel_values, layer_norm, normalise_patches, rotate_in_place
from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.vision_ops import PLAIN, Frames, Stream, attend_by_frame, attend_in_parts, equal_runs
from mossvl.processing.pixels import Grid

TABLE_BYTES = 256 * 2**20
"""Maximum memory of cached `Frames`."""


def set_up_attention(heads: int, width: int, like: Tensor) -> None:
    """Make cuDNN load its per-thread state in the calling thread, which takes a second, by an attention over zeros."""
    q = like.new_zeros((1, heads, 64, width))
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
        F.scaled_dot_product_attention(q, q, q)


def binary_runs(runs: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Cut runs (frames, patches) into powers of two of frames, largest first: attention is set up for few shapes."""
    cut = []
    for frames, patches in runs:
        cut += [(1 << bit, patches) for bit in reversed(range(frames.bit_length())) if frames >> bit & 1]
    return tuple(cut)


@dataclass
class Shift:
    """The sum of the biases of all linears added to a residual stream, which its tensor lacks.

    Attributes:
        value: (hidden,) float32; None for 0.
        following: the shift after each linear that was ever added next.
    """

    value: Tensor | None = None
    following: "dict[nn.Module, Shift]" = field(default_factory=dict)

    def plus(self, linear: nn.Linear) -> "Shift":
        """The shift after a linear; cached, since a tower always adds its linears in one order."""
        if linear not in self.following:
            bias = linear.bias.float()
            self.following[linear] = Shift(bias if self.value is None else self.value + bias)
        return self.following[linear]


class TritonOps:
    """`VisionOps` for inference with one tower, whose weights must not change.

    The residual stream is (tensor, `Shift`): the linears that were added, without their biases, and the sum of the
    biases. So the matrix product itself adds a linear, in place, and the next norm adds the biases as it reads.

    Args:
        mean, std: by channel, of uint8 pixels / 255.
        often: grids recur, so that setting cuDNN's attention up pays for small batches, too.
        set_ups: what has been set up; by default, there is always time for more.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        often: bool = False,
        set_ups: SetUps | None = None,
    ) -> None:
        self.mean, self.std, self.often = tuple(mean), tuple(std), often
        self._set_ups = set_ups or SetUps()
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
        """Frames with one entry for each patch of each frame size; cached by grids.

        Raises:
            RuntimeError: gradients are enabled.
        """
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
        if type(linear) is not nn.Linear:  # an adapter
            return self.value(x) + linear(h), self._no_shift
        value, shift = x
        return value.addmm_(h, linear.weight.t()), shift.plus(linear)

    def value(self, x: Stream) -> Tensor:
        value, shift = x
        return value.clone() if shift.value is None else value + shift.value.to(value)

    def attention(self, qkv: Tensor, frames: Frames) -> Tensor:
        q, k, v = _rotated(qkv, frames)
        return attend_by_frame(q, k, v, frames.runs, self._attend)

    def attention_in_parts(self, qkv: Tensor, frames: Frames, queries: int) -> Iterator[Tensor]:
        q, k, v = _rotated(qkv, frames)
        return attend_in_parts(q, k, v, queries, self._attend)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention by PyTorch's choice, cuDNN, or by flash attention.

        cuDNN takes about two thirds of the time, but as long as many frames to set up for every new (frames, patches):
        too much for images of ever new sizes, and at times for whoever waits for tokens.
        """
        pays = self.often or q.shape[0] * k.shape[2] >= MANY_PATCHES
        if q.dtype == torch.float32 or (pays and self._set_ups.has((q.shape, k.shape), SET_UP_SECONDS)):
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v)

    def activated(self, linear: nn.Linear, act: nn.Module, x: Tensor) -> Tensor:
        """act(linear(x)). In half precision, cuBLASLt computes GELU in the product's epilogue, before rounding.

        Elsewhere, the GELU of `_addmm_activation` would be a separate operation, or too imprecise for float32.
        """
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


def _rotated(qkv: Tensor, frames: Frames) -> tuple[Tensor, Tensor, Tensor]:
    assert frames.entry is not None
    rotate_in_place(qkv, *frames.rope, frames.entry)
    q, k, v = qkv.unbind(1)
    return q, k, v


def _bytes(frames: Frames) -> int:
    tensors = (frames.positions, *frames.rope, frames.entry)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
