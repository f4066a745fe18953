"""What a sum over the ranks of a model costs, by NCCL and by PyTorch's symmetric memory, on several GPUs of a host.

    python benchmarks/sums.py [--ranks 2] [--rows 1 8 32 64 256 1024]
    python benchmarks/sums.py --one-gpu               only whether sums are right: all ranks on one GPU, without NCCL

A layer of a model that is cut among ranks ends with two sums of (rows, hidden) bfloat16. Each way is captured in a CUDA
graph of as many sums as a step of the published model has, as the engine captures its steps. Told are microseconds a
sum, the median of replays, and the largest difference from the sum of float32 values.
"""

import argparse
import os
import socket
import statistics
from collections.abc import Callable, Iterator

import torch
import torch.multiprocessing
from torch import Tensor

from mossvl.errors import first_line
from mossvl.model.configuration import MossVLConfig
from mossvl.parallel.collectives import Collectives, listening
from mossvl.parallel.share import Share

GROUP = "mossvl-sums"
REPLAYS = 30


def ways(
    group: Collectives, device: torch.device, hidden: int, most: int
) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The name of each way, and what sums a tensor in it; the tensor may be overwritten."""
    if group.device == device:
        yield "nccl", group.sum
    from torch._C._distributed_c10d import ProcessGroup, _register_process_group, _SymmetricMemory
    from torch.distributed import _symmetric_memory

    ranks = group.share.rank, group.share.size
    named = ProcessGroup(group._store, *ranks)
    named._set_group_name(GROUP)
    _register_process_group(GROUP, named)
    _SymmetricMemory.set_group_info(GROUP, *ranks, group._store)
    shared = _symmetric_memory.empty(most * hidden, dtype=torch.bfloat16, device=device)
    _SymmetricMemory.rendezvous(shared, GROUP)

    def part(x: Tensor) -> Tensor:
        return shared[: x.numel()].view_as(x)

    def one_shot(x: Tensor) -> Tensor:
        found: Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(part(x), x, "sum", GROUP)
        return found

    def two_shot(x: Tensor) -> Tensor:
        found: Tensor = torch.ops.symm_mem.two_shot_all_reduce_(part(x).copy_(x), "sum", GROUP)
        return found

    yield "one-shot", one_shot
    yield "two-shot", two_shot


def measure(way: Callable[[Tensor], Tensor], given: Tensor, sums: int) -> float:
    """Microseconds a sum, of `sums` of them in a graph."""
    x = given.clone()
    for _ in range(3):
        way(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(sums):
            way(x)
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * begin.elapsed_time(end) / sums)
    return statistics.median(times)


def rank(
    number: int, size: int, port: int, fds: list[int], rows: list[int], hidden: int, sums: int, one_gpu: bool
) -> None:
    """Measure all ways on one rank; rank 0 tells."""
    device = torch.device("cuda", 0 if one_gpu else number)
    torch.cuda.set_device(device)
    group = Collectives(Share(number, size), torch.device("cpu") if one_gpu else device)
    group.join(port, socket.socket(fileno=fds[0]) if number == 0 else None)
    for name, way in ways(group, device, hidden, max(rows)):
        for count in rows:
            torch.manual_seed(number)
            given = torch.randn(count, hidden, device=device).bfloat16()
            expected = group.sum(given.float().to(group.device)).to(device)
            try:
                wrong = float((way(given.clone()).float() - expected).abs().max())
                took = measure(way, given, sums)
            except RuntimeError as error:  # What one rank cannot do, none can.
                if number == 0:
                    print(f"{name}: {first_line(error)}", flush=True)
                break
            if number == 0:
                print(f"{name:9} {count:5} rows {took:8.1f} µs, at most {wrong:.3f} off", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64, 256, 1024])
    parser.add_argument("--one-gpu", action="store_true")
    given = parser.parse_args()
    if given.one_gpu:
        os.environ["TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"] = "1"
    elif torch.cuda.device_count() < given.ranks:
        parser.error(f"--ranks {given.ranks} needs as many GPUs; there are {torch.cuda.device_count()}")
    text = MossVLConfig().get_text_config()
    listener, port = listening()
    with listener:
        listener.set_inheritable(True)
        sums = 2 if given.one_gpu else 2 * text.num_hidden_layers
        arguments = given.ranks, port, [listener.fileno()], given.rows, text.hidden_size, sums, given.one_gpu
        torch.multiprocessing.start_processes(rank, arguments, given.ranks, start_method="fork")


if __name__ == "__main__":
    main()
