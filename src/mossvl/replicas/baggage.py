"""Queries on their way to a replica: texts and paths as they are, pixels beside them without a copy into the message.

A message is a head (a kind, a number, sizes), and for a query its pickled form and the buffers of its arrays.
"""

import io
import pickle
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from PIL import Image as pillow

from mossvl.media.image import open_image
from mossvl.media.limits import MediaLimits

Buffers = list[pickle.PickleBuffer]
Views = Sequence[memoryview]


class _Packer(pickle.Pickler):
    """Pickles queries: Pillow images become the arrays that a replica would make of them, tensors lie on the CPU."""

    def __init__(self, file: io.BytesIO, buffers: Buffers, limits: MediaLimits) -> None:
        super().__init__(file, 5, buffer_callback=buffers.append)
        self._limits = limits

    def reducer_override(self, given: Any) -> Any:
        if isinstance(given, pillow.Image):
            return np.asarray, (np.ascontiguousarray(open_image(given, self._limits).array()),)
        if isinstance(given, torch.Tensor):
            plain = given.detach().cpu().contiguous()
            return _tensor, (plain.reshape(-1).view(torch.uint8).numpy(), plain.dtype, tuple(plain.shape))
        return NotImplemented


def _tensor(data: np.ndarray[Any, Any], dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(data).view(dtype).reshape(shape)


def pack(given: object, limits: MediaLimits) -> tuple[bytes, list[memoryview]]:
    """Return the pickled form of a query, and the buffers of its arrays.

    Raises:
        MediaError: an image cannot be decoded, or is beyond the limits.
        Exception: something cannot be pickled.
    """
    file, buffers = io.BytesIO(), Buffers()
    _Packer(file, buffers, limits).dump(given)
    return file.getvalue(), [buffer.raw() for buffer in buffers]


def send(pipe: Connection, kind: str, number: int = 0, body: bytes = b"", buffers: Views = ()) -> None:
    """Send a message.

    Raises:
        OSError: the other end is closed.
    """
    parts = [memoryview(body), *buffers] if body else []
    pipe.send((kind, number, [part.nbytes for part in parts]))
    for part in parts:
        if part.nbytes:
            pipe.send_bytes(part)


def receive(pipe: Connection) -> tuple[str, int, list[bytearray]]:
    """Wait for a message, and return its kind, its number, and the body and buffers (see `unpack`).

    Raises:
        EOFError, OSError: the other end is closed.
    """
    kind, number, sizes = pipe.recv()
    parts = [bytearray(size) for size in sizes]
    for part in parts:
        if part:
            pipe.recv_bytes_into(part)
    return kind, number, parts


def unpack(parts: list[bytearray]) -> Any:
    """Return what was packed; arrays use the buffers' memory."""
    return pickle.loads(parts[0], buffers=parts[1:])
