"""The machine of a benchmark, and its ceilings of bandwidth and arithmetic."""

import platform
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, str]:
    """Return date, device and versions."""
    described = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "python": platform.python_version(),
    }
    for package in ("mossvl", "torch", "triton", "transformers"):
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            if package == "mossvl":
                from mossvl.version import __version__

                described[package] = __version__
    return described


def ceilings(device: torch.device) -> dict[str, float]:
    """Measure bytes per second of a large copy (read and written), and FLOP/s of an 8192³ product in bfloat16."""
    size = 1 << 32
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    copy = milliseconds(partial(torch.empty_like(source).copy_, source))
    del source
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = milliseconds(partial(torch.mm, a, b))
    torch.cuda.empty_cache()
    return {"bytes_per_second": 2 * size / copy * 1e3, "flops_per_second": 2 * 8192**3 / product * 1e3}


def milliseconds(work: Any, repeats: int = 10) -> float:
    """Return the median time of `work` on the GPU, between CUDA events, in ms."""
    for _ in range(2):
        work()
    times = []
    for _ in range(repeats):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended))
    return sorted(times)[len(times) // 2]
