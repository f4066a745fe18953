"""Fuses weights of linears with the same input: side by side in memory, they are one tensor.

The parameters keep their names and shapes, as views of the fused storage. Once `.to(…)` has moved them apart, or an
adapter has replaced a linear, `joined` returns None.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mossvl.device.fused_products import SILU
from mossvl.model.layers import Attention, CrossAttentionLayer, SelfAttentionLayer
from mossvl.quantization.fp8 import Fp8Linear
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.nf4 import Nf4Linear


def groups(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the linears to fuse: q, k and v of self-attention, k and v of cross-attention, gate and up of each MLP."""
    for layer in model.modules():
        if isinstance(layer, SelfAttentionLayer):
            attn: Attention = layer.self_attn
            yield [attn.q_proj, attn.k_proj, attn.v_proj]
        elif isinstance(layer, CrossAttentionLayer):
            yield [layer.cross_attn.k_proj, layer.cross_attn.v_proj]
        if isinstance(layer, SelfAttentionLayer | CrossAttentionLayer) and isinstance(layer.mlp.act_fn, SILU):
            yield [layer.mlp.gate_proj, layer.mlp.up_proj]


STORED: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    Fp8Linear: ("weight", "weight_scale"),
    Int4Linear: ("weight_packed", "weight_scale"),
    Nf4Linear: ("weight", "absmax"),
}
"""By the class of a linear, its tensors: each has out features, or a multiple of them, in its first dimension."""


def fuse(model: nn.Module) -> None:
    """Move the weights of each group side by side; only one group at a time is in memory twice."""
    for linears in groups(model):
        join(linears)


@torch.no_grad()
def join(linears: Sequence[nn.Module]) -> None:
    """Move the weights of linears side by side, if they are of one class."""
    if len({type(linear) for linear in linears}) != 1 or joined(linears) is not None:
        return
    for name in STORED.get(type(linears[0]), ()):
        tensors = [getattr(linear, name) for linear in linears]
        if len({(tensor.device, tensor.dtype, tensor.shape[1:]) for tensor in tensors}) != 1:
            return
        storage = torch.cat([tensor.detach().view(torch.uint8) for tensor in tensors]).view(tensors[0].dtype)
        for tensor, part in zip(tensors, storage.split([len(tensor) for tensor in tensors]), strict=True):
            tensor.data = part


def joined(linears: Sequence[nn.Module]) -> list[Tensor] | None:
    """The weights of linears of one class as views of all of them: the tensors that `STORED` names, in its order.

    None if a linear has another class or a bias, or if the weights do not lie side by side.
    """
    if any(type(linear) is not type(linears[0]) or linear.bias is not None for linear in linears):
        return None
    views = []
    for name in STORED.get(type(linears[0]), ()):
        view = _side_by_side([getattr(linear, name).detach() for linear in linears])
        if view is None:
            return None
        views.append(view)
    return views or None


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor | None:
    """One view of tensors that lie side by side, joined in the first dimension; None if they do not."""
    first = tensors[0]
    place = first.data_ptr()
    for tensor in tensors:
        alike = tensor.dtype == first.dtype and tensor.shape[1:] == first.shape[1:]
        if tensor.data_ptr() != place or not tensor.is_contiguous() or not alike:
            return None
        place += tensor.nbytes
    storage = first.untyped_storage()
    if place > storage.data_ptr() + storage.nbytes():
        return None
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())
