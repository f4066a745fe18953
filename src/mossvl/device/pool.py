"""The memory behind the pages: keys and values of all layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mossvl.errors import OptionError
from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.layers import Attention
from mossvl.options.checks import pick
from mossvl.options.engine import CPU_POOL_BYTES, EngineConfig
from mossvl.quantization.fp8 import LARGEST

DEFAULT_FRACTION = 0.88
"""Of a GPU's memory, for weights and pages together, unless `memory` says otherwise."""
MOST_CPU_PAGES = 1 << 14


FP8 = torch.float8_e4m3fn
SCALES = torch.bfloat16
"""Dtype of the scales of values in FP8."""


@dataclass(frozen=True)
class PageLayout:
    """What a page holds.

    Attributes:
        text, vision: dtypes of keys and values of text tokens and of vision tokens.
        text_size, vision_size: tokens of a page; both take the same memory, scales aside.
    """

    text: torch.dtype
    vision: torch.dtype
    text_size: int
    vision_size: int

    @classmethod
    def of(cls, config: EngineConfig, dtype: torch.dtype) -> "PageLayout":
        """The layout for a model of a dtype.

        Raises:
            OptionError: a page would hold no vision token.
        """
        vision_choice = pick(config.vision_kv_cache_dtype, config.kv_cache_dtype)
        text, vision = (FP8 if choice == "fp8" else dtype for choice in (config.kv_cache_dtype, vision_choice))
        vision_size = config.page_size * text.itemsize // vision.itemsize
        if not vision_size:
            raise OptionError(
                "{page_size=} is less than a vision token needs; raise it", given={"page_size": config.page_size}
            )
        return cls(text, vision, config.page_size, vision_size)

    @property
    def num_scales(self) -> int:
        """Scales that a page holds for each layer and kv head: one for each value in FP8."""
        return max(self.text_size * (self.text == FP8), self.vision_size * (self.vision == FP8))

    def bytes(self, config: MossVLTextConfig) -> int:
        """Memory of a page."""
        pair = 2 * self.text_size * config.head_dim * self.text.itemsize
        return places(config)[0] * config.num_key_value_heads * (pair + self.num_scales * SCALES.itemsize)


class LayerPages(NamedTuple):
    """Keys and values of a layer, in all pages.

    Attributes:
        keys, values: (pages, kv heads, page size, head_dim). In FP8, a key is `key_scale` times what is stored, a value
            its entry of `value_scales` times.
        key_scale: 1 unless keys are in FP8.
        value_scales: (pages, kv heads, page size) for values in FP8, else None.
    """

    keys: Tensor
    values: Tensor
    key_scale: float = 1.0
    value_scales: Tensor | None = None

    @property
    def scales(self) -> tuple[float, Tensor | None]:
        return self.key_scale, self.value_scales


class PagePool:
    """Keys and values in pages.

    A page holds tokens in as many layers as there are cross-attention layers: vision tokens in all of these, or text
    tokens in a group of self-attention layers. So text and vision share the memory in whatever proportion requests
    need.

    Args:
        devices: device of each decoder layer; the layers of a page may be on different devices.
        attentions: of each decoder layer, for the scales of keys in FP8; see `key_scale`.

    Attributes:
        groups: number of groups of self-attention layers, which is the number of pages of a block of text.
        place: for each layer, (its index in a page, its group); the group of a cross-attention layer is `groups`.
    """

    def __init__(
        self,
        config: MossVLTextConfig,
        devices: Sequence[torch.device],
        layout: PageLayout,
        num_pages: int,
        attentions: Iterable[Attention],
    ) -> None:
        self.layout, self.num_pages = layout, num_pages
        self.page_size, self.vision_page_size = layout.text_size, layout.vision_size
        _, self.groups, self.place = places(config)
        heads, d = config.num_key_value_heads, config.head_dim
        self.devices = devices
        self._storage: dict[tuple[torch.device, int], tuple[Tensor, Tensor]] = {}
        self._layers: list[LayerPages] = []
        for device, (member, group), attn in zip(devices, self.place, attentions, strict=True):
            if (device, member) not in self._storage:
                pairs = torch.empty((2, num_pages, heads * layout.text_size * d), dtype=layout.text, device=device)
                scales = torch.empty((num_pages, heads * layout.num_scales), dtype=SCALES, device=device)
                self._storage[device, member] = pairs, scales
            pairs, scales = self._storage[device, member]
            is_text = group < self.groups
            dtype, size = (layout.text, layout.text_size) if is_text else (layout.vision, layout.vision_size)
            pages = LayerPages(*pairs.view(dtype).view(2, num_pages, heads, size, d))
            if dtype == FP8:
                own = scales[:, : heads * size].unflatten(1, (heads, size))
                pages = pages._replace(key_scale=key_scale(attn), value_scales=own)
            self._layers.append(pages)

    def layer(self, layer: int) -> LayerPages:
        """Keys and values of a layer."""
        return self._layers[layer]

    def kinds(self) -> list[LayerPages]:
        """The pages of one layer of each kind: of one dtype and page size."""
        return list({(pages.keys.dtype, pages.keys.shape[2]): pages for pages in self._layers}.values())

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""
        for pairs, scales in self._storage.values():
            pairs[:, target] = pairs[:, source]
            scales[target] = scales[source]

    @property
    def bytes(self) -> int:
        """Memory of all pages."""
        return sum(tensor.nbytes for held in self._storage.values() for tensor in held)


def key_scale(attn: Attention) -> float:
    """The scale of a layer's keys in FP8: the largest magnitude that its norm and rotation allow, over 448.

    A normalised head has a norm of sqrt(d), and rotation keeps that of each pair of dimensions: no key is larger than
    sqrt(d) times the largest weight of the norm.
    """
    return attn.k_norm.weight.abs().max().item() * attn.head_dim**0.5 / LARGEST or 1.0


def places(config: MossVLTextConfig) -> tuple[int, int, list[tuple[int, int]]]:
    """(number of layers in a page, `PagePool.groups`, `PagePool.place`)."""
    crossing = sorted(config.cross_attention_layers)
    own = [layer for layer in range(config.num_hidden_layers) if layer not in crossing]
    span = len(crossing) or len(own)
    groups = -(-len(own) // span)
    by_layer = {layer: (number % span, number // span) for number, layer in enumerate(own)}
    by_layer |= {layer: (number, groups) for number, layer in enumerate(crossing)}
    return span, groups, [by_layer[layer] for layer in range(config.num_hidden_layers)]


def count_pages(config: EngineConfig, text: MossVLTextConfig, device: torch.device, layout: PageLayout) -> int:
    """Number of pages that fit into the memory of the settings, or of the device.

    Raises:
        OptionError: fewer than four pages fit.
    """
    page = layout.bytes(text)
    if config.memory is not None and config.memory > 1:
        room = int(config.memory)
    elif device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        room = int(free + unused - (1 - (config.memory or DEFAULT_FRACTION)) * total) - config.vision_cache
    else:
        room = min(int(CPU_POOL_BYTES * (config.memory or 1)), MOST_CPU_PAGES * page)
    if room < 4 * page:
        raise OptionError(
            f"{{memory=}} leaves {max(room, 0):,} bytes for keys and values, but a page takes {page:,} "
            "and 4 pages are the minimum; raise {memory}, or use a smaller {page_size} or another device",
            given={"memory": config.memory, "page_size": config.page_size},
        )
    return room // page
