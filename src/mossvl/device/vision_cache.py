"""Cache of encoded frames by the digest of their pixels: the same picture is not encoded twice."""

from collections import OrderedDict

from torch import Tensor


class VisionCache:
    """The vision tokens of frames, (tokens, hidden) each, separator included; evicts the least recently used.

    Args:
        capacity: maximum size in bytes.

    Attributes:
        bytes: size of all vision tokens held.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bytes = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __contains__(self, digest: object) -> bool:
        return digest in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: bytes | None) -> Tensor | None:
        if digest is None or digest not in self._kept:
            return None
        self._kept.move_to_end(digest)
        return self._kept[digest]

    def put(self, digest: bytes | None, tokens: Tensor) -> None:
        """Keep a copy of a frame's tokens, so that the batch of which they are a view can be freed."""
        if digest is None or digest in self._kept or tokens.nbytes > self.capacity:
            return
        while self.bytes + tokens.nbytes > self.capacity:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.nbytes
        self._kept[digest] = tokens.clone()
        self.bytes += tokens.nbytes

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0
