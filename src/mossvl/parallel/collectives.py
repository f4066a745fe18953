"""Sums and exchanges of tensors over the ranks of a group, by gloo on CPUs and NCCL on GPUs.

The group is none of PyTorch's default groups: a program may have those, and several models. Every rank makes the same
calls in the same order. None has a time-out of its own, as a step may wait for a compiler: `parallel.processes` ends
ranks that died or hang, and with them every call that waits for one.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from mossvl.environment import environment
from mossvl.errors import first_line
from mossvl.parallel.share import Share

dist: Any = torch.distributed
"""PyTorch's classes of groups; its GPU builds have those of NCCL, too."""
LOOPBACK = "127.0.0.1"
JOIN, NEVER = timedelta(minutes=1), timedelta(days=365)
"""Time that rank 0 has to meet the others, which wait for it; and the time-out of everything else."""
NCCL_SETTINGS = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
"""PyTorch's threads must not end the process, which is that of a server or a user, when a rank is lost."""


class CollectiveError(Exception):
    """A collective has failed, because another rank has ended."""


def listening() -> tuple[socket.socket, int]:
    """Return a socket that listens on the loopback address, and its port."""
    found = socket.socket()
    found.bind((LOOPBACK, 0))
    found.listen()
    return found, found.getsockname()[1]


class Collectives:
    """Collectives of a rank, all of tensors on its device; `join` comes before all others."""

    def __init__(self, share: Share, device: torch.device) -> None:
        self.share, self.device = share, device
        self._store: Any = None
        self._group: Any = None

    def join(self, port: int, listener: socket.socket | None = None) -> None:
        """Meet the other ranks.

        Args:
            port: of the store at which ranks meet; rank 0 has it.
            listener: on rank 0, a socket that listens at the port.
        """
        fd = None if listener is None else listener.detach()
        patience = NEVER if listener is None else JOIN
        ranks = self.share.size, listener is not None
        with _failing():
            # Kept: the group's threads use it.
            self._store = dist.TCPStore(LOOPBACK, port, *ranks, patience, wait_for_workers=False, master_listen_fd=fd)
            make = _nccl if self.device.type == "cuda" else _gloo
            self._group = make(self._store, self.share)
            self._group._set_default_timeout(NEVER)
        self.least(0)  # What is set up at the first call is set up now.

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place; return it."""
        with _failing():
            self._group.allreduce([tensor], _here(dist.AllreduceOptions())).wait()
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor with that of rank 0; return it."""
        options = _here(dist.BroadcastOptions())
        options.rootRank = options.rootTensor = 0
        with _failing():
            self._group.broadcast([tensor], options).wait()
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        """The tensors of all ranks, which have the same shape, in their order; None on others than rank 0."""
        options = _here(dist.GatherOptions())
        options.rootRank = 0
        parts = [[torch.empty_like(tensor) for _ in range(self.share.size)]] if self.share.rank == 0 else []
        with _failing():
            self._group.gather(parts, [tensor.contiguous()], options).wait()
        return parts[0] if parts else None

    def gather_all(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, which have the same shape, in their order: (ranks, …)."""
        found = tensor.new_empty((self.share.size, *tensor.shape))
        with _failing():
            self._group.allgather([list(found.unbind())], [tensor.contiguous()]).wait()
        return found

    def least(self, number: int) -> int:
        """The least number of all ranks."""
        return int(self.gather_all(torch.tensor([number], device=self.device)).min())

    @property
    def abort(self) -> Callable[[], None]:
        """Ends calls that wait for a rank that is lost; those of gloo end with the ranks' sockets."""
        return self._group.abort if self.device.type == "cuda" else lambda: None


def _gloo(store: Any, share: Share) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=LOOPBACK)]
    options._timeout, options._threads = JOIN, 1
    return dist.ProcessGroupGloo(store, share.rank, share.size, options)


def _nccl(store: Any, share: Share) -> Any:
    with environment(NCCL_SETTINGS):
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = NEVER
        return dist.ProcessGroupNCCL(store, share.rank, share.size, options)


def _here(options: Any) -> Any:
    """Options of a collective on the stream of all other work."""
    if hasattr(options, "asyncOp"):
        options.asyncOp = False
    return options


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CollectiveError(first_line(error)) from error
