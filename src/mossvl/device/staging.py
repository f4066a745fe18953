"""Upload of pixels to the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Staging:
    """Two pinned buffers, used in turn: the CPU fills one while the GPU copies the other.

    Buffers are made and touched once, since the page faults of new memory cost more than the copy into it.

    Args:
        rows, width: initial patches of a buffer, and bytes of a patch; a larger upload replaces the buffer.
    """

    def __init__(self, device: torch.device, rows: int, width: int) -> None:
        self.device, self.width = device, width
        self._buffers: list[Tensor] = []
        self._sent: list[torch.cuda.Event] = []
        self._next = 0
        if device.type == "cuda":
            self._buffers = [self._buffer(rows) for _ in range(2)]
            self._sent = [torch.cuda.Event() for _ in range(2)]

    def _buffer(self, rows: int) -> Tensor:
        return torch.zeros((rows, self.width), dtype=torch.uint8).pin_memory()

    def upload(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts (rows, width) uint8 in host memory → one tensor on the device; the copy to a GPU is asynchronous."""
        if not self._buffers:
            return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).to(self.device)
        rows = sum(len(part) for part in parts)
        turn, self._next = self._next, 1 - self._next
        self._sent[turn].synchronize()
        if rows > len(self._buffers[turn]):
            self._buffers[turn] = self._buffer(rows)
        buffer = self._buffers[turn][:rows]
        torch.cat(list(parts), out=buffer)
        uploaded = torch.empty_like(buffer, device=self.device, pin_memory=False)
        uploaded.copy_(buffer, non_blocking=True)
        self._sent[turn].record()
        return uploaded
