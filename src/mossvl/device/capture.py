"""Capturing work on a GPU as a graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def capturing(device: torch.device, memory: Any) -> Iterator[torch.cuda.CUDAGraph]:
    """What is launched inside becomes the graph that is given.

    Args:
        memory: the pool of a graph that is never replayed at the same time, or None for memory of its own.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=memory, stream=_stream(device), capture_error_mode="thread_local"):
        yield graph


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device, since libraries keep memory for every stream. (PyTorch's own belongs to one device.)"""
    return torch.cuda.Stream(device)
