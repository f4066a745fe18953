"""Models whose weights have no values yet: the whole of a checkpoint's, and a rank's part of it."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from mossvl.model.configuration import MossVLConfig
from mossvl.offline.interface import MossVLForConditionalGeneration
from mossvl.parallel.ranks import Ranks
from mossvl.parallel.share import part_of
from mossvl.quantization.schemes import Schemes, quantized_maps, replace, scheme_of


def on_meta(
    config: MossVLConfig, dtype: torch.dtype, schemes: Callable[[nn.Module], Schemes]
) -> MossVLForConditionalGeneration:
    """Make a model without memory.

    Args:
        schemes: called with the plain model; returns the schemes of its maps.
    """
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype
    with torch.device("meta"):
        model = MossVLForConditionalGeneration(config)
    replace(model, schemes(model))
    cast(model, dtype)
    return model


def part_of_model(whole: MossVLForConditionalGeneration, ranks: Ranks) -> MossVLForConditionalGeneration:
    """Make a rank's part of a model without memory.

    Its configuration is that of the whole; its language model has one of its own.
    """
    config = copy.deepcopy(whole.config)
    config.text_config = part_of(config.text_config, ranks.share.size)
    schemes = {name: scheme_of(one) for name, one in quantized_maps(whole)}
    part = on_meta(config, config.dtype, lambda plain: schemes)
    part.config = part.model.config = whole.config
    part.ranks = ranks
    return part


def with_memory(
    whole: MossVLForConditionalGeneration, device: torch.device, ranks: Ranks | None = None
) -> MossVLForConditionalGeneration:
    """Give memory to a model for inference, or make a rank's part of it; there are no values yet."""
    model = whole if ranks is None else part_of_model(whole, ranks)
    loaded = model.state_dict().keys()
    assert all(name in loaded for name, _ in model.named_buffers()), "no checkpoint holds this buffer's values"
    model = model.to_empty(device=device).eval()
    model.tie_weights()  # `to_empty` has allocated tied weights apart
    return model


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights, except those of modules with `keeps_dtypes` (such as quantized ones)."""
    for module in model.modules():
        if not getattr(module, "keeps_dtypes", False):
            module._apply(lambda weight: weight.to(dtype) if weight.is_floating_point() else weight, recurse=False)
