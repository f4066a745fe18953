"""Page tables on a device, and the log of their entries."""

from collections.abc import Sequence

import numpy as np
import torch

from mossvl.device.inputs import TableUpdate, to_device
from mossvl.device.pool import PagePool
from mossvl.scheduling.request import Request

MOST_VISION_TOKENS = 1 << 20
"""Maximum number of vision tokens of a request."""


class Tables:
    """The pages of each batch slot: text (slots + 1, groups, blocks) and vision (slots + 1, blocks) int32.

    The last slot is that of padding rows.

    Attributes:
        arrivals: (slots · kv heads,) int32 zeros, for the kernels of decode attention.
    """

    def __init__(self, pool: PagePool, slots: int, context: int, device: torch.device) -> None:
        size = pool.page_size
        blocks = min(-(-context // size), pool.num_pages // pool.groups) + 1
        vision = min(pool.num_pages, MOST_VISION_TOKENS // pool.vision_page_size)
        self.text = torch.zeros((slots + 1, pool.groups, blocks), dtype=torch.int32, device=device)
        self.vision = torch.zeros((slots + 1, vision), dtype=torch.int32, device=device)
        self.max_vision = vision * pool.vision_page_size
        heads = pool.layer(0).keys.shape[1]
        self.arrivals = torch.zeros((slots + 1) * heads, dtype=torch.int32, device=device)

    def apply(self, update: TableUpdate) -> None:
        for table, entries in ((self.text, update.text), (self.vision, update.vision)):
            if entries.size:
                places, pages = to_device(entries, table.device).unbind()
                table.view(-1)[places] = pages.int()


class TableLog:
    """Logs which entries the page tables hold, so that each is written once.

    Args:
        text_shape: (groups, blocks) of a batch slot.
        vision_blocks: vision blocks of a batch slot.
    """

    def __init__(self, text_shape: Sequence[int], vision_blocks: int) -> None:
        (self._groups, self._text_blocks), self._vision_blocks = text_shape, vision_blocks
        self._known: dict[int, tuple[Tenant, int, int]] = {}

    def missing(self, requests: Sequence[Request[object]]) -> TableUpdate:
        """The entries of these requests that the tables do not hold."""
        text, vision = [np.empty((2, 0), dtype=np.int64)], [np.empty((2, 0), dtype=np.int64)]
        for request in requests:
            blocks, pages = self._held(request)
            if blocks < len(request.text_pages):
                new = np.array(request.text_pages[blocks:], dtype=np.int64)  # (blocks, groups)
                first = request.slot * self._groups * self._text_blocks
                place = first + np.arange(blocks, len(request.text_pages))[:, None]
                place = place + np.arange(self._groups) * self._text_blocks
                text.append(np.stack((place.ravel(), new.ravel())))
            if pages < len(request.vision_pages):
                new = np.array(request.vision_pages[pages:], dtype=np.int64)
                place = request.slot * self._vision_blocks + np.arange(pages, len(request.vision_pages))
                vision.append(np.stack((place, new)))
        return TableUpdate(np.concatenate(text, axis=1), np.concatenate(vision, axis=1))

    def mark_written(self, requests: Sequence[Request[object]]) -> None:
        """Log that the tables hold all entries of these requests."""
        for request in requests:
            self._known[request.slot] = _tenant(request), len(request.text_pages), len(request.vision_pages)

    def forget(self, request: Request[object]) -> None:
        """Drop a request from the log: its next step writes all its entries."""
        self._known.pop(request.slot, None)

    def _held(self, request: Request[object]) -> tuple[int, int]:
        """(text blocks, vision pages) of a request that the tables hold."""
        now = _tenant(request)
        tenant, blocks, pages = self._known.get(request.slot, (now, 0, 0))
        if tenant[:2] != now[:2]:
            return 0, 0
        return blocks, pages if tenant == now else 0


Tenant = tuple[int, int, bool, int]


def _tenant(request: Request[object]) -> Tenant:
    """Who holds a batch slot, and with which pages.

    Preemption changes all of them, the end of sharing the last vision page, and freed pages move the later ones.
    """
    return request.number, request.preemptions, request.shares_last_vision, request.freed
