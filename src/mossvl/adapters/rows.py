"""Products of packed rows, each with the adapter of its request."""

import torch.nn.functional as F
from torch import Tensor, nn

from mossvl.adapters.loaded import Adapters
from mossvl.scheduling.pages import NO_ADAPTER


class AdaptedRows:
    """Adds to products of packed rows what each row's adapter does, adapter by adapter: on any device.

    Args:
        rows: (rows,) the index of each row's adapter, or NO_ADAPTER.
    """

    def __init__(self, adapters: Adapters, rows: Tensor) -> None:
        self._adapters = adapters
        self._rows = [(int(index), (rows == index).nonzero()[:, 0]) for index in rows.unique() if index != NO_ADAPTER]

    def add(self, y: Tensor, x: Tensor, linear: nn.Module) -> None:
        """Add to y, the linear of x, in place."""
        lows = self._adapters.of.get(linear)
        if lows is None:
            return
        for index, rows in self._rows:
            low = lows[index]
            if low is not None:
                rows = rows.to(x.device)
                y.index_add_(0, rows, F.linear(F.linear(x[rows], low.down), low.up).to(y.dtype))
