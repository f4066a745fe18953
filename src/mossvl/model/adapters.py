"""Products with adapters of low rank (LoRA), as PEFT puts them beside linear maps: few and large, for training.

PEFT's modules compute each adapter by itself: seven of a layer launch more kernels than all the rest of it. Here the
adapters of maps with one input are converted to the products' dtype together, and their first products are one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossvl.model.layers import PlainProducts


class Adapter(NamedTuple):
    """What an adapter adds to a map of x: scale · up(down(x)).

    Attributes:
        base: the map.
        down, up: (rank, in features) and (out features, rank).
    """

    base: nn.Module
    down: Tensor
    up: Tensor
    scale: float

    @classmethod
    def of(cls, module: Any) -> "Adapter | None":
        """The only adapter that is active in a module of PEFT, if it adds just this product; else None."""
        names: Sequence[str] = getattr(module, "active_adapters", ())
        if len(names) != 1 or names[0] not in getattr(module, "lora_A", ()) or names[0] in module.lora_variant:
            return None
        name = names[0]
        down, up = module.lora_A[name], module.lora_B[name]
        if module.disable_adapters or module.merged or not isinstance(module.lora_dropout[name], nn.Identity):
            return None
        # DeepSpeed's shards of weights, which only a module's own forward gathers, have another shape.
        if (
            type(down) is not nn.Linear
            or up.bias is not None
            or down.weight.shape != (len(down.weight), down.in_features)
        ):
            return None
        if any(has_hooks(one) for one in (module, module.base_layer, down, up)):
            return None
        return cls(module.base_layer, down.weight, up.weight, module.scaling[name])


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of a module runs hooks, which a product of its weights would leave out."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


class AdaptedProducts(PlainProducts):
    """`PlainProducts` that compute the adapters of maps with one input together."""

    def linears(self, x: Tensor, linears: Sequence[nn.Module]) -> list[Tensor]:
        adapters = [one for one in map(Adapter.of, linears) if one is not None]
        return adapted(x, adapters) if len(adapters) == len(linears) else super().linears(x, linears)


def adapted(x: Tensor, adapters: Sequence[Adapter]) -> list[Tensor]:
    """Maps of x (rows, in features) with their adapters: (rows, out features) each, in the dtype of the map's result.

    Adapters are computed in the dtype of autocast, or else in their own.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else adapters[0].down.dtype
    weights = [one.down for one in adapters] + [one.up for one in adapters]
    flat = torch.cat([weight.flatten() for weight in weights]).to(dtype)
    parts = flat.split([sum(one.down.numel() for one in adapters), *(one.up.numel() for one in adapters)])
    inner = F.linear(x.to(dtype), parts[0].view(-1, x.shape[-1]))
    ranks = [len(one.down) for one in adapters]
    results = []
    for one, up, low in zip(adapters, parts[1:], inner.split(ranks, dim=-1), strict=True):
        result: Tensor = one.base(x)
        # Scaled before the second product: afterwards, its whole gradient would be scaled, too.
        results.append((result + F.linear(low * one.scale, up.view(one.up.shape))).to(result.dtype))
    return results
