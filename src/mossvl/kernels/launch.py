"""How kernels are launched: what they have to know of the device, and starting before the kernel before has ended.

On Hopper and later, a kernel's programs may take their places while the kernel before still runs (programmatic
dependent launch). Such a kernel calls `depend` before it reads what another kernel wrote and before it writes: until
then it may only read weights. Every program of every such kernel calls it, so that waiting for the kernel before is
waiting for all before that.

Arguments that count rows are not specialised: kernels for 1, for multiples of 16 and for other numbers would each be
compiled in the middle of somebody's answer.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 4 stands for any other, where only Triton's interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@cache
def early(device: torch.device) -> dict[str, Any]:
    """Launch arguments of a kernel that calls `depend`."""
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"EARLY": True, "launch_pdl": True} if able else {"EARLY": False}


def precision(dtype: torch.dtype) -> str:
    """The `input_precision` of matrix products: float32 stays float32."""
    return "ieee" if dtype == torch.float32 else "tf32"


@triton.jit
def depend(EARLY: tl.constexpr):
    """Let the next kernel take its places, then wait until the kernels before have ended."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
