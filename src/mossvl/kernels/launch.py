"""Kernel launches: device properties and programmatic dependent launch (PDL).

On Hopper and later, PDL lets the programs of a kernel become resident while earlier kernels still run. A kernel under
PDL calls `wait`, or `depend`, before it reads an earlier kernel's output and before it writes. Until then it may read
weights, and what earlier steps wrote, since kernels without PDL come first in every step; also what these wrote, apart
from the last of them. Some program of every kernel waits, so that waiting for the previous kernel is waiting for all
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
def let_next_launch(EARLY: tl.constexpr):
    """Let the next kernel launch, once every program has begun."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait(EARLY: tl.constexpr):
    """Wait until all earlier kernels have ended."""
    if EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def depend(EARLY: tl.constexpr):
    """Let the next kernel launch, then wait until all earlier kernels have ended."""
    let_next_launch(EARLY)
    wait(EARLY)


@triton.jit
def prefetch(pointer, rows, stride, size):
    """Fetch to L2 the first `size` bytes of each of some rows, `stride` bytes apart; at most one row a thread.

    Both are multiples of 16.
    """
    tl.inline_asm_elementwise(
        """{
        .reg .pred live;
        .reg .u32 thread;
        .reg .u64 address;
        mov.u32 thread, %tid.x;
        setp.lt.s32 live, thread, $2;
        mad.wide.u32 address, thread, $3, $1;
        @live cp.async.bulk.prefetch.L2.global [address], $4;
        mov.u32 $0, 0;
        }""",
        "=r,l,r,r,r",
        [pointer.to(tl.int64), rows, stride, size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
