"""Fuses weights of plain linears with the same input: side by side in memory, they are one tensor.

The parameters keep their names and shapes, as views of the fused storage. Once `.to(…)` has moved them apart, or an
adapter has replaced a linear, `joined` returns None.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mossvl.model.layers import Attention, CrossAttentionLayer, SelfAttentionLayer


def groups(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the linears to fuse: q, k and v of self-attention, k and v of cross-attention, gate and up of each MLP."""
    for layer in model.modules():
        if isinstance(layer, SelfAttentionLayer):
            attn: Attention = layer.self_attn
            yield [attn.q_proj, attn.k_proj, attn.v_proj]
        elif isinstance(layer, CrossAttentionLayer):
            yield [layer.cross_attn.k_proj, layer.cross_attn.v_proj]
        if isinstance(layer, SelfAttentionLayer | CrossAttentionLayer):
            yield [layer.mlp.gate_proj, layer.mlp.up_proj]


@torch.no_grad()
def fuse(model: nn.Module) -> None:
    """Move the weights of each group side by side; only one group at a time is in memory twice."""
    for linears in groups(model):
        if not all(type(linear) is nn.Linear for linear in linears) or joined(linears) is not None:
            continue
        weights = [linear.weight for linear in linears if isinstance(linear.weight, nn.Parameter)]
        if len({(weight.device, weight.dtype) for weight in weights}) != 1:
            continue
        storage = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, storage.split([len(weight) for weight in weights]), strict=True):
            weight.data = part


def joined(linears: Sequence[nn.Module]) -> Tensor | None:
    """The weights of plain linears as one view, (sum of out features, in features).

    None if a linear is not plain or has a bias, or if the weights do not lie side by side.
    """
    weights: list[Tensor] = []
    for linear in linears:
        if type(linear) is not nn.Linear or linear.bias is not None:
            return None
        weights.append(linear.weight)
    first = weights[0]
    place = first.data_ptr()
    for weight in weights:
        if weight.data_ptr() != place or not weight.is_contiguous() or weight.dtype != first.dtype:
            return None
        place += weight.nbytes
    if len(weights) == 1:
        return first.detach()
    storage = first.untyped_storage()
    if place > storage.data_ptr() + storage.nbytes():
        return None
    rows = sum(len(weight) for weight in weights)
    return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))
