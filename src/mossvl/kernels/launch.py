"""Kernel launches: device properties and programmatic dependent launch (PDL).

On Hopper and later, PDL lets the programs of a kernel become resident while the previous kernel still runs. A kernel
under PDL calls `depend` before it reads another kernel's output and before it writes; until then it may read weights
only. Every program of every such kernel calls `depend`, so that waiting for the previous kernel is waiting for all
earlier kernels.

Row counts are arguments with `do_not_specialize`: Triton would otherwise compile new kernels for 1, for multiples of 16
and for other counts while requests run.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@cache
def multiprocessors(device: torch.device) -> int:
    """Return the multiprocessors of a CUDA device; 4 for any other device, where Triton's interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@cache
def early(device: torch.device) -> dict[str, Any]:
    """Return the launch arguments of a kernel that calls `depend`: PDL where the device has it."""
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"EARLY": True, "launch_pdl": True} if able else {"EARLY": False}


def precision(dtype: torch.dtype) -> str:
    """Return the `input_precision` of `tl.dot`: full float32 products for float32."""
    return "ieee" if dtype == torch.float32 else "tf32"


@triton.jit
def depend(EARLY: tl.constexpr):
    """Let the next kernel launch, then wait until all earlier kernels have ended."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
