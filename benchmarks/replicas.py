"""What a second replica gives: two replicas held to a core each, against one that is held to one (Linux).

    python benchmarks/replicas.py [--rows 256] [--tokens 48] [--repeats 5]

mossvl-tiny answers questions about pictures of noise, all of them other ones, which travel to the replicas. Both pools
are started first and take turns, so that what else the machine does is shared by both. The last columns tell the CPU
time of the replicas and of the process that asks, which other programs change less.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from mossvl import MossVL, SamplingParams
from mossvl.checkpoints.default import default_checkpoint
from mossvl.loading import read_processor
from mossvl.options.engine import EngineConfig
from mossvl.replicas.pool import Pool

TICKS = os.sysconf("SC_CLK_TCK")


def pool_of(replicas: int) -> MossVL:
    """A pool of so many replicas, also of one; each is held to a core of its own."""
    folder = default_checkpoint()
    llm = MossVL.__new__(MossVL)
    llm.config, llm.data_parallel_size = EngineConfig(device="cpu", max_batch=32), replicas
    llm.processor = read_processor(folder)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:replicas])  # Replicas share the threads that their parent may use.
    llm._answering = Pool(str(folder), llm.processor, llm.config, replicas)
    os.sched_setaffinity(0, cores)
    for pid, core in zip(pids(llm), cores, strict=False):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
    return llm


def pids(llm: MossVL) -> list[int]:
    assert isinstance(llm._answering, Pool)
    return [one.process.pid or 0 for one in llm._answering._replicas.all if one.process is not None]


def cpu_seconds(pid: int | str) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(llm: MossVL, queries: list[Any], params: SamplingParams) -> tuple[float, float, float]:
    """Seconds that all answers take, and CPU seconds of the replicas and of this process."""
    before = [sum(map(cpu_seconds, pids(llm))), cpu_seconds("self")]
    begun = time.monotonic()
    results = llm.generate(queries, params, progress=False)
    seconds = time.monotonic() - begun
    assert all(result.error is None and result.usage.new_tokens == params.max_new_tokens for result in results)
    return seconds, sum(map(cpu_seconds, pids(llm))) - before[0], cpu_seconds("self") - before[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 256), ("tokens", 48), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    params = SamplingParams(max_new_tokens=given.tokens, ignore_eos=True)
    random = np.random.default_rng(0)
    pools = {replicas: pool_of(replicas) for replicas in (1, 2)}
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    for repeat in range(-1, given.repeats):
        images = random.integers(0, 256, (given.rows, 96, 96, 3), dtype=np.uint8)
        queries = [{"prompt": "What is in the picture?", "images": [image]} for image in images]
        for replicas, llm in pools.items():
            times = measure(llm, queries, params)
            if repeat >= 0:  # The first one warms up.
                found[replicas].append(times)
    print("| replicas | answers a second | CPU ms an answer: replicas | asking process |\n|---:|---:|---:|---:|")
    for replicas, times in found.items():
        wall, own, asking = (statistics.median(one) for one in zip(*times, strict=True))
        own, asking = 1e3 * own / given.rows, 1e3 * asking / given.rows
        print(f"| {replicas} | {given.rows / wall:.1f} | {own:.1f} | {asking:.2f} |")
    ratios = [one[0] / two[0] for one, two in zip(found[1], found[2], strict=True)]
    print(f"\ntwo against one: {statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})")
    for llm in pools.values():
        llm.close()


if __name__ == "__main__":
    main()
