"""Capture of CUDA graphs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def capturing(device: torch.device, memory: Any) -> Iterator[torch.cuda.CUDAGraph]:
    """Capture the kernels that are launched inside; yield their graph.

    Args:
        memory: the memory pool of a graph that is never replayed at the same time; None for a pool of its own.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=memory, stream=_stream(device), capture_error_mode="thread_local"):
        yield graph


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream per device, since libraries keep memory per stream. PyTorch's capture stream is on one device only."""
    return torch.cuda.Stream(device)
