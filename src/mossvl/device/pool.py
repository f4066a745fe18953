"""The memory behind the pages: keys and values of all layers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mossvl.errors import OptionError
from mossvl.model.configuration import MossVLTextConfig
from mossvl.options.engine import CPU_POOL_BYTES, EngineConfig

DEFAULT_FRACTION = 0.88
"""Of a GPU's memory, for weights and pages together, unless `memory` says otherwise."""
MOST_CPU_PAGES = 1 << 14


class PagePool:
    """Keys and values in pages.

    A page holds `page_size` tokens in as many layers as there are cross-attention layers: vision tokens in all of
    these, or text tokens in a group of self-attention layers. So text and vision share the memory in whatever
    proportion requests need.

    Args:
        devices: device of each decoder layer; the layers of a page may be on different devices.

    Attributes:
        groups: number of groups of self-attention layers, which is the number of pages of a block of text.
        place: for each layer, (its index in a page, its group); the group of a cross-attention layer is `groups`.
    """

    def __init__(
        self,
        config: MossVLTextConfig,
        devices: Sequence[torch.device],
        dtype: torch.dtype,
        num_pages: int,
        page_size: int,
    ) -> None:
        self.page_size, self.num_pages = page_size, num_pages
        _, self.groups, self.place = places(config)
        shape = (2, num_pages, config.num_key_value_heads, page_size, config.head_dim)
        self._keys: dict[tuple[torch.device, int], Tensor] = {}
        self._values: dict[tuple[torch.device, int], Tensor] = {}
        self.devices = devices
        for device, (member, _) in zip(devices, self.place, strict=True):
            if (device, member) not in self._keys:
                storage = torch.empty(shape, dtype=dtype, device=device)
                self._keys[device, member], self._values[device, member] = storage

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (pages, kv heads, page size, head_dim) each."""
        key = self.devices[layer], self.place[layer][0]
        return self._keys[key], self._values[key]

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""
        for pools in (self._keys, self._values):
            for pool in pools.values():
                pool[target].copy_(pool[source])

    @property
    def bytes(self) -> int:
        """Memory of all pages."""
        return sum(pool.nbytes for pools in (self._keys, self._values) for pool in pools.values())


def places(config: MossVLTextConfig) -> tuple[int, int, list[tuple[int, int]]]:
    """(number of layers in a page, `PagePool.groups`, `PagePool.place`)."""
    crossing = sorted(config.cross_attention_layers)
    own = [layer for layer in range(config.num_hidden_layers) if layer not in crossing]
    span = len(crossing) or len(own)
    groups = -(-len(own) // span)
    by_layer = {layer: (number % span, number // span) for number, layer in enumerate(own)}
    by_layer |= {layer: (number, groups) for number, layer in enumerate(crossing)}
    return span, groups, [by_layer[layer] for layer in range(config.num_hidden_layers)]


def count_pages(config: EngineConfig, text: MossVLTextConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Number of pages that fit into the memory of the settings, or of the device.

    Raises:
        OptionError: fewer than four pages fit.
    """
    span = places(text)[0]
    page = span * 2 * text.num_key_value_heads * text.head_dim * config.page_size * dtype.itemsize
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
            f"memory={config.memory!r} leaves {max(room, 0):,} bytes for keys and values, but a page takes {page:,} "
            "and 4 pages are the minimum; raise memory, or use a smaller page_size or another device"
        )
    return room // page
