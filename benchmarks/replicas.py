"""What more replicas give: on a GPU each, or held to a core each (Linux), against one that is held to one.

    python benchmarks/replicas.py [--rows 256] [--tokens 48] [--repeats 5]                        mossvl-tiny, two cores
    python benchmarks/replicas.py --checkpoint FOLDER --replicas 1 2 4 --side 448 --kill          a GPU for each

The model answers questions about pictures of noise, all of them other ones, which travel to the replicas. On cores, all
pools are started first and take turns, so that what else the machine does is shared by them; on GPUs they are measured
one after the other. The last columns tell the CPU time of the replicas and of the process that asks, which other
programs change less. With `--kill`, a replica is killed in the middle of a last measurement: told are the answers that
it held, and how many came in all.
"""

import argparse
import os
import signal
import statistics
import time
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import torch

from mossvl import MossVL, SamplingParams
from mossvl.checkpoints.default import CHECKPOINT
from mossvl.errors import ReplicaError
from mossvl.loading import read_processor
from mossvl.options.engine import EngineConfig
from mossvl.replicas.pool import Pool

TICKS = os.sysconf("SC_CLK_TCK")
Times = tuple[float, float, float]


def pool_of(replicas: int, folder: Path, on_gpus: bool) -> MossVL:
    """A pool of so many replicas, also of one; each has a GPU, or is held to a core, of its own."""
    llm = MossVL.__new__(MossVL)
    llm.config = EngineConfig() if on_gpus else EngineConfig(device="cpu", max_batch=32)
    llm.data_parallel_size, llm.processor = replicas, read_processor(folder)
    cores = sorted(os.sched_getaffinity(0))
    if not on_gpus:
        os.sched_setaffinity(0, cores[:replicas])  # Replicas share the threads that their parent may use.
    llm._answering = Pool(str(folder), llm.processor, llm.config, replicas)
    if not on_gpus:
        os.sched_setaffinity(0, cores)
        for pid, core in zip(pids(llm), cores, strict=False):
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
    llm.warm_up()
    return llm


def pids(llm: MossVL) -> list[int]:
    assert isinstance(llm._answering, Pool)
    return [one.process.pid or 0 for one in llm._answering._replicas.all if one.process is not None]


def cpu_seconds(pid: int | str) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(llm: MossVL, queries: list[Any], params: SamplingParams) -> Times:
    """Seconds that all answers take, and CPU seconds of the replicas and of this process."""
    before = [sum(map(cpu_seconds, pids(llm))), cpu_seconds("self")]
    begun = time.monotonic()
    results = llm.generate(queries, params, progress=False)
    seconds = time.monotonic() - begun
    assert all(result.error is None and result.usage.new_tokens == params.max_new_tokens for result in results)
    return seconds, sum(map(cpu_seconds, pids(llm))) - before[0], cpu_seconds("self") - before[1]


def killed(llm: MossVL, queries: list[Any], params: SamplingParams, after: float) -> str:
    """What a replica's death after some seconds costs."""
    timer = Timer(after, os.kill, (pids(llm)[-1], signal.SIGKILL))
    timer.start()
    begun = time.monotonic()
    results = llm.generate(queries, params, progress=False)
    seconds = time.monotonic() - begun
    timer.join()
    lost = sum(isinstance(result.error, ReplicaError) for result in results)
    right = sum(result.error is None for result in results)
    assert lost + right == len(results)
    return f"a replica killed after {after:.1f} s: {lost} answers lost, {right} came, {right / seconds:.1f} a second"


def measured(pools: dict[int, MossVL], given: argparse.Namespace, params: SamplingParams) -> dict[int, list[Times]]:
    found: dict[int, list[Times]] = {replicas: [] for replicas in pools}
    for repeat in range(-1, given.repeats):
        queries = asked(given.rows, given.side, repeat + 1)
        for replicas, llm in pools.items():
            times = measure(llm, queries, params)
            if repeat >= 0:  # The first one warms up.
                found[replicas].append(times)
    return found


def asked(rows: int, side: int, seed: int) -> list[dict[str, Any]]:
    images = np.random.default_rng(seed).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    return [{"prompt": "What is in the picture?", "images": [image]} for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 256), ("tokens", 48), ("repeats", 5), ("side", 96)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    params = SamplingParams(max_new_tokens=given.tokens, ignore_eos=True)
    on_gpus = torch.cuda.is_available()
    found: dict[int, list[Times]] = {}
    for together in [[one] for one in given.replicas] if on_gpus else [given.replicas]:
        pools = {replicas: pool_of(replicas, given.checkpoint, on_gpus) for replicas in together}
        found |= measured(pools, given, params)
        if given.kill and max(pools) > 1:
            usual = statistics.median(one[0] for one in found[max(pools)])
            print(killed(pools[max(pools)], asked(given.rows, given.side, 0), params, usual / 2), end="\n\n")
        for llm in pools.values():
            llm.close()
    told(found, given.rows)


def told(found: dict[int, list[Times]], rows: int) -> None:
    print("| replicas | answers a second | CPU ms an answer: replicas | asking process |\n|---:|---:|---:|---:|")
    for replicas, times in found.items():
        wall, own, asking = (statistics.median(one) for one in zip(*times, strict=True))
        print(f"| {replicas} | {rows / wall:.1f} | {1e3 * own / rows:.1f} | {1e3 * asking / rows:.2f} |")
    first, *more = found
    for replicas in more:
        ratios = [one[0] / two[0] for one, two in zip(found[first], found[replicas], strict=True)]
        print(
            f"\n{replicas} against {first}: {statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
